import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import type { ParamRule } from '../../../optim/index.ts';
import type { Entry } from '../built-stream.ts';
import { composeTasks, filled, type Seen } from '../compose.ts';
import { registerContinual } from '../strategy.ts';
import { bufferOf, bufferShape } from './replay.ts';

type Tensor = tf.Tensor;

/** Keys of strategies that look at the gradient of kept examples. */
export const memorySchema = z.object({
  buffer: bufferShape.buffer,
  sampling: bufferShape.sampling,
  fresh: z
    .int()
    .min(1)
    .optional()
    .describe('new examples of a training step, where the gradient of more kept ones is wanted; default: batch.global'),
});

/** New examples of a training step. */
export const freshOf = ({ fresh }: { readonly fresh?: number | undefined }, global: number): number =>
  Math.min(global, fresh ?? global);

/**
 * A gradient that would undo what the memory's gradient asks for loses just that part of it: g - (g.m / m.m) m where g.m < 0
 * (Chaudhry et al., Efficient lifelong learning with A-GEM, 2019, equation 11).
 */
export function projectedGradients(): ParamRule {
  return {
    name: 'a-gem',
    slots: () => ['memory'],
    observe: ({ gradient }) => ({ memory: gradient }),
    sums: {
      count: 2,
      of: ({ gradient, slots }) => {
        const memory = slots.memory as Tensor;
        return [tf.sum(tf.mul(gradient, memory)), tf.sum(tf.square(memory))];
      },
    },
    numbers: {
      count: 1,
      of: ([inner = 0, squared = 0]) => [inner < 0 && squared > 0 ? inner / squared : 0],
    },
    gradient: ({ gradient, slots, numbers: [share] }) =>
      tf.sub(gradient, tf.mul(slots.memory as Tensor, share as Tensor)),
  };
}

/** Averaged gradient episodic memory: each training step follows one that only looks at the gradient of kept examples. */
registerContinual({
  name: 'a-gem',
  languageModels: true,
  config: memorySchema,
  rule: projectedGradients,
  trained: freshOf,
  compose: (given, config) => {
    const { global, builder } = given;
    const buffer = bufferOf(given, config);
    let waiting: Seen[] = [];
    composeTasks(given, {
      fresh: freshOf(config, global),
      step(seen, { rng, task }) {
        const entries = (list: readonly Seen[]): Entry[] =>
          list.map(({ example, task: of }) => ({ example, task: of, weight: 1 }));
        if (task > 0) builder.step(filled(entries(buffer.draw(global, rng)), global), 'observe');
        waiting.push(...seen);
        return entries(seen);
      },
      // What a task brings is remembered when it is over: the memory is of the tasks before.
      ended() {
        for (const each of waiting) buffer.offer(each);
        waiting = [];
      },
    });
  },
});
