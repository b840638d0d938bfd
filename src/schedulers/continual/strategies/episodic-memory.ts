import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import type { ParamRule } from '../../../optim/index.ts';
import { createRng } from '../../../tensor/index.ts';
import { reservoir } from '../buffer.ts';
import type { Entry } from '../built-stream.ts';
import { composeTasks, filled, type Seen } from '../compose.ts';
import { registerContinual } from '../strategy.ts';
import { freshOf, memorySchema } from './gradient-memory.ts';

type Tensor = tf.Tensor;

/**
 * The v that makes v'Pv / 2 + q'v smallest where every element is at least `margin`: coordinate descent, which converges for any
 * positive semidefinite P. Elements whose diagonal is 0 are 0.
 */
export function quadraticProgram(
  matrix: readonly (readonly number[])[],
  linear: readonly number[],
  margin: number,
): number[] {
  const v = linear.map((_, i) => ((matrix[i]?.[i] ?? 0) > 0 ? margin : 0));
  for (let sweep = 0; sweep < 10_000; sweep++) {
    let largest = 0;
    for (const [i, row] of matrix.entries()) {
      const diagonal = row[i] as number;
      if (!(diagonal > 0)) continue;
      const slope = row.reduce((sum, value, j) => sum + value * (v[j] as number), linear[i] as number);
      const next = Math.max(margin, (v[i] as number) - slope / diagonal);
      largest = Math.max(largest, Math.abs(next - (v[i] as number)) / (1 + Math.abs(next)));
      v[i] = next;
    }
    if (largest < 1e-12) break;
  }
  return v;
}

/**
 * Gradients as near as can be to their own that undo no earlier task: g + sum_k v_k m_k, where m_k is the gradient on the memory of task
 * k and v the solution of the dual quadratic program (Lopez-Paz and Ranzato, Gradient episodic memory, 2017, equation 11). Observing
 * steps bring the memories' gradients in, one after another; a training step uses them up.
 */
export function memoryConstraints(memories: number, margin: number): ParamRule {
  const slots = Array.from({ length: memories }, (_, k) => `memory${k}`);
  const pairs = slots.flatMap((_, i) => slots.slice(i).map((_each, j): [number, number] => [i, i + j]));
  const of = (all: Readonly<Record<string, Tensor>>, k: number) => all[slots[k] as string] as Tensor;
  return {
    name: 'gem',
    slots: () => slots,
    // The newest comes first and the others move on.
    observe: ({ gradient, slots: all }) =>
      Object.fromEntries(slots.map((slot, k) => [slot, k === 0 ? gradient : of(all, k - 1)])),
    renew: ({ param }) => Object.fromEntries(slots.map((slot) => [slot, tf.zerosLike(param)])),
    sums: {
      count: memories + pairs.length,
      of: ({ gradient, slots: all }) => [
        ...slots.map((_, k) => tf.sum(tf.mul(gradient, of(all, k)))),
        ...pairs.map(([i, j]) => tf.sum(tf.mul(of(all, i), of(all, j)))),
      ],
    },
    numbers: {
      count: memories,
      of: (sums) => {
        const inner = sums.slice(0, memories);
        // Nothing is changed where no memory would lose, or where a step only looks.
        if (inner.every((product) => product >= 0)) return slots.map(() => 0);
        const matrix = slots.map(() => new Array<number>(memories).fill(0));
        for (const [at, [i, j]] of pairs.entries()) {
          const product = sums[memories + at] as number;
          (matrix[i] as number[])[j] = product;
          (matrix[j] as number[])[i] = product;
        }
        return quadraticProgram(matrix, inner, margin);
      },
    },
    gradient: ({ gradient, slots: all, numbers }) =>
      slots.reduce((sum, _, k) => tf.add(sum, tf.mul(of(all, k), numbers[k] as Tensor)), gradient),
  };
}

const gemSchema = z.object({
  buffer: memorySchema.shape.buffer.describe('examples that are kept, in equal shares of the tasks'),
  fresh: memorySchema.shape.fresh,
  margin: z
    .number()
    .min(0)
    .default(0.5)
    .describe("what each memory's gradient is at least added by where one would lose: more helps earlier tasks more"),
});

/** Gradient episodic memory: each training step follows one for each earlier task that looks at the gradient of its memory. */
registerContinual({
  name: 'gem',
  config: gemSchema,
  trained: freshOf,
  rule: ({ margin }, { tasks }) => memoryConstraints(tasks - 1, margin),
  compose: (given, config) => {
    const { scenario, global, builder, seed } = given;
    const share = Math.floor(config.buffer / scenario.tasks.length);
    if (share < 1)
      throw new RangeError(
        `strategy.buffer is ${config.buffer}, but gem keeps examples of each of ${scenario.tasks.length} tasks: give it at least as many`,
      );
    const memories = scenario.tasks.map(({ index }) =>
      reservoir(share, createRng(seed).fork('continual buffer', index)),
    );
    composeTasks(given, {
      fresh: freshOf(config, global),
      step(seen, { rng, task }) {
        const entries = (list: readonly Seen[]): Entry[] =>
          list.map(({ example, task: of }) => ({ example, task: of, weight: 1 }));
        for (const memory of memories.slice(0, task))
          builder.step(filled(entries(memory.draw(global, rng)), global), 'observe');
        for (const each of seen) memories[task]?.offer(each);
        return entries(seen);
      },
    });
  },
});
