import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { distillationLoss, maskOf, softened } from '../../../src/schedulers/continual/distillation.ts';
import { createRng } from '../../../src/tensor/index.ts';
import { smallRuns } from './run.ts';

const run = smallRuns();

beforeAll(async () => {
  await tf.setBackend('cpu');
});

const total = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0);

describe('softened answers', () => {
  it('are compared group by group, as written out by hand', () => {
    const [width, temperature] = [5, 2];
    const groups = [
      [0, 3],
      [1, 2],
    ];
    const rng = createRng(3);
    const [before, now] = [rng.fillNormal(new Float32Array(10), 0, 2), rng.fillNormal(new Float32Array(10), 0, 2)];
    const expected = [0, 1].map((row) => {
      const softmax = (logits: Float32Array, group: number[]) => {
        const exps = group.map((output) => Math.exp((logits[row * width + output] as number) / temperature));
        return exps.map((value) => value / total(exps));
      };
      const each = groups.map((group) => {
        const [p, q] = [softmax(before, group), softmax(now, group)];
        return -total(p.map((value, i) => value * Math.log(q[i] as number)));
      });
      return (total(each) / groups.length) * temperature ** 2;
    });
    const teacher = softened(before, { width, groups, temperature });
    // Output 4 is of no group.
    expect([teacher[4], teacher[9], total([...teacher])]).toEqual([-1, -1, expect.closeTo(0, 5)]);
    const losses = distillationLoss(tf.tensor2d(now, [2, width]), tf.tensor2d(teacher, [2, width]), {
      masks: groups.map((group) => maskOf(group, width)),
      temperature,
    });
    for (const [i, loss] of [...losses.dataSync()].entries()) expect(loss).toBeCloseTo(expected[i] as number, 4);
  });
});

const twoTasks = { epochs: 6, scenario: { name: 'task-incremental', stream: { name: 'split', tasks: 2 } } };

describe('lwf', () => {
  it('keeps what the first task was answered with, which fine-tuning does not', async () => {
    const scenario = { name: 'domain-incremental', stream: { name: 'split', tasks: 2 } };
    const naive = await run({ epochs: 6, scenario, strategy: { name: 'naive' } });
    const lwf = await run({ epochs: 6, scenario, strategy: { name: 'lwf', alpha: 3 } });
    expect(lwf.last[0]).toBeGreaterThan((naive.last[0] as number) + 0.1);
    // Labels alone are left where the teacher has no weight.
    const without = await run({ epochs: 6, scenario, strategy: { name: 'lwf', alpha: 0 } });
    expect(without.summary.weights_sha256).toBe(naive.summary.weights_sha256);
  });

  it.each([
    ['class-incremental', 'all', 4],
    ['class-incremental', 'known', 2],
    ['domain-incremental', 'all', 2],
    ['task-incremental', 'all', 2],
  ])('takes the mean over the outputs that it compares where it should: %s, %s', async (name, over, outputs) => {
    const scenario = { name, stream: { name: 'split', tasks: 2 } };
    const mean = await run({ scenario, strategy: { name: 'lwf', over, alpha: 1, average: true } });
    const sum = await run({ scenario, strategy: { name: 'lwf', over, alpha: 1 / outputs } });
    expect(mean.summary.weights_sha256).toBe(sum.summary.weights_sha256);
  });
});

describe('lfl', () => {
  it('leaves the classifier as the first task made it, and keeps features where its weight is large', async () => {
    const one = await run({
      ...twoTasks,
      scenario: { name: 'task-incremental', stream: { name: 'split', classes: [[0, 1]] } },
      strategy: { name: 'lfl', lambda: 1 },
    });
    const two = await run({ ...twoTasks, strategy: { name: 'lfl', lambda: 1 } });
    for (const name of ['weight', 'bias'])
      expect(await two.tensor(`param/head.linear.${name}`)).toEqual(await one.tensor(`param/head.linear.${name}`));
    // The features are free to move, but less so the more their distance weighs.
    const before = await one.tensor('param/hidden.1.linear.weight');
    const moved = async (of: typeof two) => {
      const after = await of.tensor('param/hidden.1.linear.weight');
      return total([...after].map((value, i) => Math.abs(value - (before[i] as number))));
    };
    const free = await run({ ...twoTasks, strategy: { name: 'lfl', lambda: 0 } });
    expect(await moved(two)).toBeGreaterThan(0);
    expect(await moved(two)).toBeLessThan((await moved(free)) / 2);
  });

  it('refuses a model without a single matrix at its end', async () => {
    const strategy = { name: 'lfl' };
    const model = { name: 'mlp', args: { hidden: [8], head: { kind: 'etf' } } };
    await expect(run({ ...twoTasks, strategy }, { model })).rejects.toThrow(
      /lfl compares what goes into the last layer/,
    );
  });
});
