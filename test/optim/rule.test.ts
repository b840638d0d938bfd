import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  buildOptimizer,
  optimSchema,
  type ParamRule,
  type StepPhase,
  stepScalars,
  updateFunction,
  withRule,
} from '../../src/optim/index.ts';

beforeAll(async () => {
  await tf.setBackend('cpu');
});

const info = { path: 'weight', shape: [3], decay: true };
const plan = buildOptimizer(optimSchema.parse({ name: 'adam', lr: 0.1 }), { totalSteps: 10 });
/** Keeps the gradient that it observes, and takes a part of it from later ones. */
const rule: ParamRule = {
  name: 'memory',
  slots: () => ['seen'],
  observe: ({ gradient }) => ({ seen: gradient }),
  sums: { count: 1, of: ({ gradient }) => [tf.sum(gradient)] },
  numbers: { count: 1, of: ([sum = -1]) => [sum] },
  gradient: ({ gradient, slots, numbers: [sum] }) =>
    tf.add(gradient, tf.mul(slots.seen as tf.Tensor, sum as tf.Tensor)),
};
const { optimizer } = withRule(plan, rule, [{ steps: 4, cycle: ['observe', 'train'] }]);
const ruled = { ...plan, optimizer };

describe('an optimizer that follows a rule', () => {
  it('knows what a step is for, and wants sums where it trains', () => {
    const steps = [1, 2, 3, 4, 5];
    expect(steps.map((step) => optimizer.phaseAt?.(step))).toEqual(['observe', 'train', 'observe', 'train', 'train']);
    expect(steps.map((step) => optimizer.sums?.at?.(step))).toEqual([false, true, false, true, true]);
    // Without sums the rule is given none; the last scalar is its number.
    expect(stepScalars(ruled, 0, []).at(-1)).toBe(-1);
    expect(stepScalars(ruled, 1, [7]).at(-1)).toBe(7);
  });

  it('all train where the rule does not observe', () => {
    const { observe: _, ...blind } = rule;
    expect(withRule(plan, blind, [{ steps: 4, cycle: ['observe', 'train'] }]).optimizer.phaseAt).toBeUndefined();
  });

  it.each<[StepPhase, number]>([
    ['observe', 0],
    ['train', 1],
  ])('an update for a step that is to %s has the bits of one for any step', (phase, step) => {
    const update = (known?: StepPhase) =>
      tf.tidy(() => {
        const { fn, signature } = updateFunction(optimizer, info, { clipping: false, phase: known });
        const scalars = stepScalars(ruled, step, [0.5]).map((value) => tf.scalar(value));
        const vectors = signature.slice(0, signature.length - scalars.length);
        const tensors = vectors.map((_, i) => tf.tensor1d([0.1 * (i + 1), 0.7 / (i + 1), -0.3 + i]));
        return (fn(...tensors, ...scalars) as tf.Tensor[]).map((tensor) => [...tensor.dataSync()]);
      });
    const [param, ...slots] = update(phase);
    expect([param, ...slots]).toEqual(update());
    const before = [0.1, 0.7, -0.3].map(Math.fround);
    if (phase === 'observe') expect(param).toEqual(before);
    else expect(param).not.toEqual(before);
  });
});
