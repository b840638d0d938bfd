import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { Phases } from '../../../src/optim/index.ts';
import { continualStrategy, type TaskEnd } from '../../../src/schedulers/continual/index.ts';
import { memoryConstraints, quadraticProgram } from '../../../src/schedulers/continual/strategies/episodic-memory.ts';
import { createRng, type HostTensor } from '../../../src/tensor/index.ts';
import type { TransitionParam } from '../../../src/worker/index.ts';
import { smallRuns } from './run.ts';

const run = smallRuns();

beforeAll(async () => {
  await tf.setBackend('cpu');
});

const dot = (a: readonly number[], b: readonly number[]) =>
  a.reduce((sum, value, i) => sum + value * (b[i] as number), 0);
const draw = (rng: ReturnType<typeof createRng>, count: number) => Array.from({ length: count }, () => rng.normal());

describe('gem', () => {
  it('solves its quadratic programs: the conditions of an optimum hold', () => {
    for (const margin of [0, 0.5])
      for (let trial = 0; trial < 50; trial++) {
        const rng = createRng(trial);
        const rows = Array.from({ length: 4 }, () => draw(rng, 3));
        const matrix = rows.map((a) => rows.map((b) => dot(a, b)));
        const linear = rows.map((row) => dot(row, draw(createRng(trial + 1000), 3)));
        const v = quadraticProgram(matrix, linear, margin);
        for (const [i, value] of v.entries()) {
          const slope = dot(matrix[i] as number[], v) + (linear[i] as number);
          expect(value).toBeGreaterThanOrEqual(margin);
          expect(slope).toBeGreaterThan(-1e-6);
          if (value > margin + 1e-6) expect(Math.abs(slope)).toBeLessThan(1e-6);
        }
      }
  });

  it('gives the nearest gradient that no memory loses by', () => {
    const rule = memoryConstraints(2, 0);
    const slots = { memory0: tf.tensor1d([1, 0, 0]), memory1: tf.tensor1d([0, 1, 0]) };
    const info = { path: 'w', shape: [3], decay: true };
    const direction = (values: number[]) => {
      const gradient = tf.tensor1d(values);
      const sums = rule.sums
        ?.of({ param: gradient, gradient, slots, info })
        .map((each) => each.dataSync()[0] as number);
      const numbers = rule.numbers?.of(sums as number[], { step: 0, phase: 'train' }).map((each) => tf.scalar(each));
      const given = { param: gradient, gradient, slots, numbers: numbers as tf.Scalar[], lr: tf.scalar(1), info };
      const changed = rule.gradient?.(given) as tf.Tensor;
      return [...changed.dataSync()];
    };
    // What is against a memory goes, the rest stays; memories at right angles are seen to one by one.
    expect(direction([-2, 3, 4])).toEqual([0, 3, 4]);
    expect(direction([-2, -3, 4])).toEqual([0, 0, 4]);
    expect(direction([2, 3, 4])).toEqual([2, 3, 4]);
  });

  it('forgets less than fine-tuning does', async () => {
    const scheduler = { epochs: 6, scenario: { name: 'domain-incremental', stream: { name: 'split', tasks: 2 } } };
    const naive = await run({ ...scheduler, strategy: { name: 'naive' } });
    const gem = await run({ ...scheduler, strategy: { name: 'gem', buffer: 160 } });
    expect(gem.last[0]).toBeGreaterThan((naive.last[0] as number) + 0.1);
    expect(gem.last[1]).toBeGreaterThan(0.8);
  });
});

describe('gdumb', () => {
  it('learns all classes at the end of each task from what is kept of them', async () => {
    const { last, summary } = await run({
      scenario: { name: 'domain-incremental', stream: { name: 'split', tasks: 2 } },
      strategy: { name: 'gdumb', buffer: 60, epochs: 20 },
    });
    expect(Math.min(...last)).toBeGreaterThan(0.7);
    expect(summary.steps).toBe((2 * 60 * 20) / 8);
  });

  it('begins each task with the parameters of the first, without momentum, and counts steps from there', async () => {
    const strategy = continualStrategy('gdumb');
    const kept = new Map<string, HostTensor>();
    const told: unknown[] = [];
    const start = (task: number, value: number) =>
      ({
        task,
        parameters: async () => ({ w: new Float32Array([value]) }),
        setParameters: async (values: unknown) => told.push(values),
        transition: async (name: string) => told.push(name),
        keep: (name: string, tensor: HostTensor) => kept.set(name, tensor),
        kept: (name: string) => kept.get(name) ?? null,
      }) as unknown as TaskEnd;
    await strategy.beforeTask?.(start(0, 1), {});
    expect(told).toEqual([]);
    await strategy.beforeTask?.(start(1, 5), {});
    expect(told).toEqual([{ w: new Float32Array([1]) }, 'forget']);
    const slots = { m: new Float32Array([3]) };
    strategy.transitions?.({}, {} as never).forget?.({ slots } as unknown as TransitionParam, null);
    expect(slots.m[0]).toBe(0);
    const phases = new Phases([
      { steps: 3, cycle: ['train'] },
      { steps: 4, cycle: ['train', 'observe'], restarts: true },
    ]);
    expect([2, 3, 4, 5, 6, 7].map((step) => phases.trainedBefore(step))).toEqual([2, 0, 1, 1, 2, 2]);
  });
});
