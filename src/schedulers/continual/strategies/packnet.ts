import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import type { ParamRule } from '../../../optim/index.ts';
import type { Transition, TransitionParam } from '../../../worker/index.ts';
import { composeTask } from '../compose.ts';
import { emptyOptimizer, headParams, refuseStatistics, requireKnownTask } from '../known-task.ts';
import { registerContinual } from '../strategy.ts';

type Tensor = tf.Tensor;

const NAME = 'packnet';

/** Of each weight: 1 + the task that owns it, 0 for none; whether it stays where it is; its value while it is hidden. */
const SLOTS = ['owner', 'closed', 'hidden'] as const;
type Slot = (typeof SLOTS)[number];

/** Weights that are closed have no update, to the bit and whatever the optimizer. */
export function closedWeights(): ParamRule {
  return {
    name: NAME,
    slots: () => SLOTS,
    settle: ({ param, updated, slots }) => tf.where(tf.greater(slots.closed as Tensor, 0.5), param, updated),
  };
}

function slotsOf({ slots }: TransitionParam): Readonly<Record<Slot, Float32Array>> {
  const own = SLOTS.map((slot) => [slot, slots[`${NAME}.${slot}`]]);
  return Object.fromEntries(own) as Record<Slot, Float32Array>;
}

interface Pruning {
  readonly task: number;
  /** Share of the free weights of a layer that is given back. */
  readonly share: number;
  /** Parameters with a place for each output, and the outputs of the task: these are its own, and are not pruned. */
  readonly heads: readonly string[];
  readonly outputs: readonly number[];
}

/**
 * The end of a task's first training: the smallest of the weights that no task owns become zero and stay so, the others are the
 * task's and are trained on. Biases and gains of norms belong to the first task.
 */
const prune: Transition = (param, args) => {
  const { task, share, heads, outputs } = args as Pruning;
  const { info, value } = param;
  const { owner, closed } = slotsOf(param);
  emptyOptimizer(param, NAME);
  const mine = task + 1;
  if (heads.includes(info.path)) {
    const width = info.shape.at(-1) as number;
    for (const output of outputs) for (let i = output; i < owner.length; i += width) owner[i] = mine;
  } else if (info.shape.length >= 2 && info.decay) {
    const free = [...owner.keys()].filter((i) => owner[i] === 0);
    // Of weights of equal size the first ones go first, on every rank.
    const bySize = free.sort((a, b) => Math.abs(value[a] as number) - Math.abs(value[b] as number) || a - b);
    const cut = Math.round(share * free.length);
    for (const [rank, i] of bySize.entries()) {
      if (rank < cut) value[i] = 0;
      else owner[i] = mine;
    }
  } else if (task === 0) owner.fill(mine);
  for (let i = 0; i < closed.length; i++) closed[i] = owner[i] === mine ? 0 : 1;
};

/** The end of a task: what is not owned is there for the next one. */
const open: Transition = (param) => {
  const { owner, closed } = slotsOf(param);
  emptyOptimizer(param, NAME);
  for (let i = 0; i < closed.length; i++) closed[i] = owner[i] === 0 ? 0 : 1;
};

/** Shows a task the weights of its own and of those before; those of later tasks are zero till they are shown again. */
const show: Transition = (param, args) => {
  const { task } = args as { readonly task: number | null };
  const { value } = param;
  const { owner, hidden } = slotsOf(param);
  for (let i = 0; i < value.length; i++) {
    if (hidden[i] !== 0) value[i] = hidden[i] as number;
    const later = task !== null && (owner[i] as number) > task + 1;
    hidden[i] = later ? (value[i] as number) : 0;
    if (later) value[i] = 0;
  }
};

/**
 * Each task is packed into weights that earlier ones have left over (Mallya and Lazebnik, PackNet: Adding multiple tasks to a single
 * network by iterative pruning, 2018, section 3): train all that are free, prune the smallest, train on what is kept, freeze it.
 */
registerContinual({
  name: NAME,
  config: z.object({
    prune: z
      .number()
      .min(0)
      .lt(1)
      .default(0.5)
      .describe('share of the free weights of each layer that is pruned after a task, and so left for later ones'),
    retrain_epochs: z.int().min(1).default(1).describe("passes over the task's examples after pruning"),
  }),
  model: (model) => refuseStatistics(NAME, model),
  rule: closedWeights,
  transitions: () => ({ prune, open, show }),
  compose: (given, { retrain_epochs }) => {
    const { scenario, builder, global } = given;
    requireKnownTask(NAME, scenario.shape);
    for (const task of scenario.tasks) {
      composeTask(given, task, task.examples.train, { fresh: global });
      builder.pause('prune');
      composeTask({ ...given, epochs: retrain_epochs }, task, task.examples.train, { fresh: global });
      builder.endTask();
    }
  },
  atPause: async ({ task, scenario, model, transition }, _pause, config) => {
    const outputs = scenario.tasks[task]?.outputs ?? [];
    const args: Pruning = { task, share: config.prune, heads: headParams(model, scenario.shape), outputs };
    await transition('prune', args);
  },
  afterTask: ({ transition }) => transition('open', {}),
  showTask: ({ transition }, task) => transition('show', { task }),
});
