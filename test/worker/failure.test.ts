import * as tf from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CommClosed, CommTimeout } from '../../src/comm/index.ts';
import { createEngine, type Engine } from '../../src/engine/index.ts';
import { init, type Module, param } from '../../src/modules/index.ts';
import { createRanks, NonFinite, runInProcess } from '../../src/worker/index.ts';
import { makeJobs, mlpModel, vectorDataset } from './jobs.ts';

let engine: Engine;
beforeAll(async () => {
  engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
});
afterAll(() => engine.dispose());

/** Passes its input on, and divides by zero once the inputs are large. */
const fragile: Module = {
  kind: 'fragile',
  forward: (_, [x]) =>
    tf.div(x as tf.Tensor, tf.sub(1, tf.cast(tf.greater(tf.max(tf.abs(x as tf.Tensor)), 1e6), 'float32'))),
};

function breakable() {
  const model = mlpModel();
  const [first, second, ...rest] = model.layers;
  const wrapped: Module = {
    kind: 'wrapped',
    children: { inner: second!.module, fragile },
    forward: (_, [x], ctx) => ctx.run('fragile', tf.mul(ctx.run('inner', x as tf.Tensor), 1e9)),
  };
  return { ...model, layers: [first!, { name: second!.name, module: wrapped }, ...rest] };
}

describe('a value that is not finite', () => {
  const cases: [string, Record<string, unknown>][] = [
    ['serial', {}],
    ['data parallel', { data: 2 }],
    ['in the first stage of a pipeline', { pipeline: 2, stages: [2, 1] }],
    ['in the last stage of a pipeline', { pipeline: 2, stages: [1, 2] }],
  ];
  it.each(cases)('names step, microbatch and the first module: %s', async (_, parallel) => {
    const { jobs, overrides } = await makeJobs({
      dataset: vectorDataset(),
      model: breakable(),
      batch: { global: 4, micro: 2 },
      parallel,
    });
    const error = await runInProcess(jobs, 2, { overrides: { ...overrides, engine } }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(NonFinite);
    expect((error as NonFinite).path).toBe('hidden.0.fragile');
    expect((error as Error).message).toMatch(
      /microbatch [01] at step 0.*first module whose output is not finite is hidden\.0\.fragile/s,
    );
  });

  it.each([{}, { data: 2, expert: 2 }])('names the expert: %j', async (parallel) => {
    const expert = (value: number): Module => ({
      kind: 'scale',
      params: { factor: param([8], init.constant(value)) },
      forward: ({ factor }, [rows]) => tf.mul(rows as tf.Tensor, factor as tf.Tensor),
    });
    const split: Module = {
      kind: 'split',
      experts: [expert(1), expert(Number.POSITIVE_INFINITY)],
      forward: (_, [x], ctx) => ctx.experts(x as tf.Tensor, tf.tensor1d([1, 1], 'int32')),
    };
    const model = mlpModel();
    const { jobs, overrides } = await makeJobs({
      dataset: vectorDataset(),
      model: { ...model, layers: [model.layers[0]!, { name: 'mix', module: split }, model.layers[2]!] },
      batch: { global: 4, micro: 2 },
      parallel,
    });
    const error = await runInProcess(jobs, 1, { overrides: { ...overrides, engine } }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(NonFinite);
    expect((error as NonFinite).path).toBe('mix.experts.1');
  });

  it('in the gradient names the parameter', async () => {
    const model = mlpModel();
    const spiky: Module = {
      kind: 'spiky',
      // The square root's slope at zero is infinite; its value is not.
      forward: (_, [x]) => tf.add(x as tf.Tensor, tf.sqrt(tf.mul(tf.abs(x as tf.Tensor), 0))),
    };
    const last = model.layers[2]!;
    const wrapped: Module = {
      kind: 'wrapped',
      children: { inner: last.module, spiky },
      forward: (_, [x], ctx) => ctx.run('spiky', ctx.run('inner', x as tf.Tensor)),
    };
    const { jobs, overrides } = await makeJobs({
      dataset: vectorDataset(),
      model: { ...model, layers: [model.layers[0]!, model.layers[1]!, { name: 'out', module: wrapped }] },
      batch: { global: 4, micro: 2 },
    });
    const error = await runInProcess(jobs, 1, { overrides: { ...overrides, engine } }).catch((e: unknown) => e);
    expect((error as Error).message).toMatch(
      /gradient norm at step 0 is (NaN|Infinity): the gradient of .* is not finite/,
    );
  });
});

describe('a rank without its peers', () => {
  it('reports who it waits for, with the instruction', async () => {
    const { jobs, overrides } = await makeJobs({ parallel: { pipeline: 2 }, job: { deadlineMs: 80 } });
    const { ranks, dispose } = await createRanks(jobs, { ...overrides, engine });
    try {
      const rank = ranks[1]!;
      const error = await rank.step(0).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(CommTimeout);
      expect(rank.failure(error)).toMatchObject({
        rank: 1,
        step: 0,
        microbatch: 0,
        secondary: false,
        name: 'CommTimeout',
      });
      expect(rank.failure(error).instruction).toMatch(/Recv/);
    } finally {
      await dispose();
    }
  });

  it('marks its failure as secondary when a peer has gone', async () => {
    const { jobs, overrides } = await makeJobs({ parallel: { data: 2 } });
    const { ranks, dispose } = await createRanks(jobs, { ...overrides, engine });
    const stepping = ranks[0]!.step(0).catch((e: unknown) => e);
    await new Promise((resolve) => setImmediate(resolve));
    await dispose();
    const error = await stepping;
    expect(error).toBeInstanceOf(CommClosed);
    expect(ranks[0]!.failure(error)).toMatchObject({ secondary: true });
  });
});
