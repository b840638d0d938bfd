import * as z from 'zod';
import type { StreamTarget } from '../../../data/index.ts';
import { tf } from '../../../engine/index.ts';
import type { StateSpec } from '../../../modules/index.ts';
import type { Entry } from '../built-stream.ts';
import { composeTasks } from '../compose.ts';
import { crossEntropies } from '../loss.ts';
import { type ComposeGiven, registerContinual, type StrategyLoss } from '../strategy.ts';
import { bufferOf, bufferShape, shares } from './replay.ts';

type Tensor = tf.Tensor;

const darkSchema = z.object({
  ...bufferShape,
  alpha: z
    .number()
    .min(0)
    .default(0.5)
    .describe('weight of the distance to what the model said when the example was kept'),
});

/** Marks of entries: the slot that an example's logits are put into, and the one that they are compared with; -1 for none. */
const WRITE = 'write';
const READ = 'read';
/** How much the comparison counts: as weights, its mean over the compared examples is what they are scaled for. */
const PULL = 'pull';

/**
 * The logits of kept examples, as state of the loss: those of a step's examples go where `write` says, at the end of the step. A
 * row has the logits and then 1, so that rows nobody writes stay.
 */
function logitsState(capacity: number, outputs: number): StateSpec {
  return {
    shape: [capacity, outputs + 1],
    init: 0,
    update: (state, contribution) => {
      const written = tf.slice(contribution as tf.Tensor2D, [0, outputs], [capacity, 1]);
      return tf.add(tf.mul(state, tf.sub(1, written)), contribution);
    },
  };
}

/** Rows `[micro, capacity]` that are 1 at a slot; none for slot -1. */
function rowsAt(slots: Tensor, capacity: number): Tensor {
  return tf.cast(tf.equal(tf.expandDims(tf.cast(slots, 'int32'), 1), tf.range(0, capacity, 1, 'int32')), 'float32');
}

function darkLoss(alpha: number, capacity: number, outputs: number): StrategyLoss {
  return {
    state: { logits: logitsState(capacity, outputs) },
    of(given) {
      const { logits, weights, targets, state } = given;
      const [write, read] = [rowsAt(targets[WRITE] as Tensor, capacity), rowsAt(targets[READ] as Tensor, capacity)];
      const ones = tf.ones([logits.shape[0] as number, 1]);
      given.contribute(
        'logits',
        tf.matMul(write as tf.Tensor2D, tf.concat([logits, ones], 1) as tf.Tensor2D, true, false),
      );
      const before = tf.slice(tf.matMul(read as tf.Tensor2D, state.logits as tf.Tensor2D), [0, 0], [-1, outputs]);
      const distance = tf.mean(tf.squaredDifference(logits, before), 1);
      const pulls = tf.mul(targets[PULL] as Tensor, tf.mul(distance, alpha));
      return tf.mean(tf.add(tf.mul(weights, crossEntropies(given)), pulls));
    },
  };
}

const targets: readonly StreamTarget[] = [
  { name: WRITE, dtype: 'int32', shape: [] },
  { name: READ, dtype: 'int32', shape: [] },
  { name: PULL, dtype: 'float32', shape: [] },
];

/** New examples, kept ones to compare, and with `beta` as many kept ones with their labels; each kind counts as a mean. */
function compose(given: ComposeGiven, config: z.output<typeof darkSchema>, beta: number | null): void {
  const { global } = given;
  const buffer = bufferOf(given, config);
  const { fresh, replay } = shares(given, config);
  const half = beta === null ? 0 : Math.floor(replay / 2);
  composeTasks(given, {
    fresh,
    step(seen, { rng }) {
      const pulled = buffer.draw(replay - half, rng);
      const labelled = half > 0 ? buffer.draw(half, rng) : [];
      const total = seen.length + pulled.length + labelled.length;
      const slots = seen.map((each) => buffer.offer(each));
      return [
        ...seen.map((each, i): Entry => {
          const slot = slots[i] as number;
          // A slot that is given away again in the same step keeps what came last.
          const write = slots.lastIndexOf(slot) === i ? slot : -1;
          return { ...each, weight: total / seen.length, marks: { [WRITE]: write } };
        }),
        ...pulled.map(({ example, task, slot }): Entry => {
          const marks = { [READ]: slot, [PULL]: global / pulled.length };
          return { example, task, weight: 0, marks };
        }),
        ...labelled.map(({ example, task }): Entry => {
          return { example, task, weight: ((beta ?? 0) * total) / labelled.length };
        }),
      ];
    },
  });
}

/** Dark experience replay (Buzzega et al., Dark experience for general continual learning, 2020, equation 6). */
registerContinual({
  name: 'der',
  taskFree: true,
  config: darkSchema,
  targets: () => targets,
  loss: ({ alpha, buffer }, { outputs }) => darkLoss(alpha, buffer, outputs),
  compose: (given, config) => compose(given, config, null),
});

/** The same with the labels of other kept examples besides (the same, equation 7). */
registerContinual({
  name: 'der++',
  taskFree: true,
  config: darkSchema.extend({
    beta: z.number().min(0).default(0.5).describe('weight of the cross entropy of kept examples'),
  }),
  targets: () => targets,
  loss: ({ alpha, buffer }, { outputs }) => darkLoss(alpha, buffer, outputs),
  compose: (given, config) => compose(given, config, config.beta),
});
