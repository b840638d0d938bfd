import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import { type Model, type Module, param, walk, withoutGradient } from '../../../modules/index.ts';
import type { ParamRule } from '../../../optim/index.ts';
import { joinPath } from '../../../tensor/index.ts';
import type { Transition } from '../../../worker/index.ts';
import { jsonOf, jsonTensor } from '../arrays.ts';
import { changeModules } from '../change-modules.ts';
import { emptyOptimizer } from '../known-task.ts';
import { registerContinual, type TaskEnd } from '../strategy.ts';

type Tensor = tf.Tensor;

const NAME = 'continual-moe';
/** Parameter of a router: 1 for experts that can be chosen, 0 for those of tasks to come. */
const OPEN = 'open';
/** Metric of a router: its logits for each example. */
const ROUTES = 'routes';
/** What is kept: by path of a mixture, which experts are frozen; and how many tasks have begun. */
const FROZEN = 'frozen';
const BEGUN = 'begun';
/** Examples of a task that are looked at to see where they are routed to. */
const LOOKED_AT = 2000;

const schema = z.object({
  experts_per_task: z
    .int()
    .min(1)
    .optional()
    .describe('experts of each mixture that open with each task; default: equal shares of the tasks'),
  freeze_above: z
    .number()
    .min(0)
    .default(0.5)
    .describe('an expert is frozen at the end of a task if its load is at least this part of an even load'),
  freeze_shared: z
    .boolean()
    .default(true)
    .describe(
      'whether what all examples pass through (all but experts, routers and the last layer) is frozen after the first task',
    ),
});

/** Mixtures of a model: their paths, and how many experts each has. */
function mixturesOf(model: Model): { readonly path: string; readonly experts: number }[] {
  return model.layers
    .flatMap(({ name, module }) => walk(module, name, { experts: false }))
    .filter(({ module }) => module.kind === 'moe')
    .map(({ path, module }) => ({ path, experts: module.experts?.length ?? 0 }));
}

/** @throws RangeError if there are too few experts for the tasks */
function openedBy(task: number, experts: number, tasks: number, each: number | undefined): number {
  const grow = each ?? Math.floor(experts / tasks);
  if (grow < 1 || grow * tasks > experts)
    throw new RangeError(
      `strategy ${NAME} opens ${grow} experts with each of ${tasks} tasks, but a mixture has ${experts}: ` +
        'give the model more experts (model.args.experts), or lower strategy.experts_per_task',
    );
  return grow * (task + 1);
}

/** Routers that choose among open experts only. */
function withOpening(model: Model, tasks: number, each: number | undefined): Model {
  const mixtures = mixturesOf(model);
  if (mixtures.length === 0)
    throw new RangeError(`strategy ${NAME} needs a model with mixtures of experts: use model moe-mlp, say`);
  return changeModules(model, (module, path) => {
    const mixture = mixtures.find((one) => path === joinPath(one.path, 'router'));
    if (!mixture) return module;
    const first = openedBy(0, mixture.experts, tasks, each);
    const open = param([mixture.experts], () => new Float32Array(mixture.experts).fill(1, 0, first), { decay: false });
    const router: Module = {
      ...module,
      params: { ...module.params, [OPEN]: open },
      forward(params, inputs, ctx) {
        const logits = module.forward(params, inputs, ctx) as Tensor;
        const closed = withoutGradient(() => tf.mul(tf.sub(params[OPEN] as Tensor, 1), 1e9));
        const chosen = tf.add(logits, closed);
        if (!ctx.training) ctx.metric(ROUTES, chosen);
        return chosen;
      },
    };
    return router;
  });
}

const frozen: ParamRule = {
  name: NAME,
  slots: () => ['frozen'],
  settle: ({ param: before, updated, slots }) => tf.where(tf.greater(slots.frozen as Tensor, 0.5), before, updated),
};

interface Freezing {
  readonly experts: Readonly<Record<string, readonly number[]>>;
  /** Last layer, which goes on learning; null where nothing else is frozen. */
  readonly head: string | null;
}

/** Freezes experts with the router's columns for them, and what all examples pass through. */
const freeze: Transition = (given, args) => {
  const { experts, head } = args as Freezing;
  const { info, slots } = given;
  emptyOptimizer(given, NAME);
  const slot = slots[`${NAME}.frozen`] as Float32Array;
  const mixture = Object.keys(experts).find((path) => info.path.startsWith(`${path}.`));
  if (mixture === undefined) {
    if (head !== null && !info.path.startsWith(`${head}.`)) slot.fill(1);
    return;
  }
  const [part, name] = info.path.slice(mixture.length + 1).split('.');
  const own = experts[mixture] as readonly number[];
  if (part === 'experts' && own.includes(Number(name))) slot.fill(1);
  if (part === 'router' && name !== OPEN) {
    const width = info.shape.at(-1) as number;
    for (const expert of own) for (let i = expert; i < slot.length; i += width) slot[i] = 1;
  }
};

/** Opens the experts of the tasks up to one. */
async function open(
  { model, scenario, setParameters }: TaskEnd,
  task: number,
  each: number | undefined,
): Promise<void> {
  const values = mixturesOf(model).map(({ path, experts }): [string, Float32Array] => [
    joinPath(path, `router.${OPEN}`),
    new Float32Array(experts).fill(1, 0, openedBy(task, experts, scenario.shape.tasks, each)),
  ]);
  await setParameters(Object.fromEntries(values));
}

/** Share of the examples of a task whose first choice each expert is. */
async function loads({ positions, predict, task }: TaskEnd, path: string, experts: number): Promise<number[]> {
  const { from, to } = positions(task);
  const stride = Math.max(1, Math.floor((to - from) / LOOKED_AT));
  const looked = Int32Array.from({ length: Math.min(LOOKED_AT, to - from) }, (_, i) => from + i * stride);
  const metric = joinPath(path, `router.${ROUTES}`);
  const logits = (await predict(looked, [metric]))[metric] as Float32Array;
  const counts = new Array<number>(experts).fill(0);
  for (let row = 0; row < logits.length; row += experts) {
    const own = logits.subarray(row, row + experts);
    const best = own.indexOf(Math.max(...own));
    counts[best] = (counts[best] as number) + 1;
  }
  return counts.map((count) => count / looked.length);
}

/**
 * Mixtures that grow: each task opens experts and the router's columns for them; at its end the experts that its examples are routed to
 * are frozen, and so are their columns (after Lifelong-MoE: Chen et al., Lifelong language pretraining with distribution-specialized
 * experts, 2023, sections 3.2 and 3.3). Where the task is known its examples choose among the experts that were open in it.
 */
registerContinual({
  name: NAME,
  config: schema,
  model: (model, { experts_per_task: each }, { tasks }) => withOpening(model, tasks, each),
  rule: () => frozen,
  transitions: () => ({ freeze }),
  beforeTask: async (start, { experts_per_task: each }) => {
    start.keep(BEGUN, jsonTensor(start.task));
    await open(start, start.task, each);
  },
  afterTask: async (end, { freeze_above, freeze_shared, experts_per_task: each }) => {
    const before = end.kept(FROZEN);
    const experts: Record<string, number[]> = before ? (jsonOf(before) as Record<string, number[]>) : {};
    for (const { path, experts: count } of mixturesOf(end.model)) {
      const opened = openedBy(end.task, count, end.scenario.shape.tasks, each);
      const shares = await loads(end, path, count);
      const busy = shares.flatMap((share, expert) => (share > 0 && share >= freeze_above / opened ? [expert] : []));
      experts[path] = [...new Set([...(experts[path] ?? []), ...busy])].sort((a, b) => a - b);
    }
    end.keep(FROZEN, jsonTensor(experts));
    const head = freeze_shared ? (end.model.layers.at(-1)?.name ?? null) : null;
    await end.transition('freeze', { experts, head } satisfies Freezing);
  },
  showTask: (shown, task, { experts_per_task: each }) => {
    const kept = shown.kept(BEGUN);
    const newest = kept ? (jsonOf(kept) as number) : 0;
    return open(shown, Math.min(task ?? newest, newest), each);
  },
});
