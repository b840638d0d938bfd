import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createEngine, type Engine } from '../../src/engine/index.ts';
import { runInProcess } from '../../src/worker/index.ts';
import { type JobOptions, makeJobs, mlpModel, vectorDataset } from './jobs.ts';

let engine: Engine;
beforeAll(async () => {
  engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
});
afterAll(() => engine.dispose());

async function run(options: JobOptions, steps = 3) {
  const { jobs, overrides } = await makeJobs(options);
  const { losses, gradNorms, weightsSha256 } = await runInProcess(jobs, steps, { overrides: { ...overrides, engine } });
  return { losses, gradNorms, weightsSha256 };
}

const dense = { layers: 4, dim: 8, heads: 2 };
const moe = { layers: 2, dim: 8, heads: 2, moe: { experts: 4, top_k: 2, every: 1, hidden: 8, bias_rate: 0.01 } };

describe('a serial worker', () => {
  it('learns', async () => {
    const { losses, gradNorms } = await run({ model: dense }, 25);
    expect(losses[0]).toBeCloseTo(Math.log(17), 0);
    expect(losses[24]).toBeLessThan((losses[0] as number) - 0.5);
    expect(gradNorms.every((norm) => Number.isFinite(norm) && norm > 0)).toBe(true);
  });

  it('learns with experts', async () => {
    const { losses } = await run({ model: moe }, 25);
    expect(losses[24]).toBeLessThan((losses[0] as number) - 0.5);
  });

  it('does the same twice, and something else with another seed', async () => {
    const [a, b, c] = [
      await run({ model: moe }),
      await run({ model: moe }),
      await run({ model: moe, job: { seed: 8 } }),
    ];
    expect(b).toEqual(a);
    expect(c.weightsSha256).not.toBe(a.weightsSha256);
  });
});

describe('numerics: exact gives the serial bits', () => {
  const cases: [string, JobOptions, NonNullable<JobOptions['parallel']>[]][] = [
    [
      'dense transformer with clipping and dropout',
      { model: { ...dense, dropout: 0.1 }, optim: { clip_norm: 0.5 } },
      [
        { data: 2 },
        { data: 3 },
        { data: 4 },
        { pipeline: 2 },
        { pipeline: 3, schedule: 'gpipe' },
        { pipeline: 2, schedule: 'zero-bubble' },
        { pipeline: 2, schedule: 'interleaved-1f1b' },
        { data: 2, pipeline: 2 },
        { data: 3, zero: 0 },
      ],
    ],
    [
      'mixture of experts, dropless',
      { model: moe },
      [
        { data: 2 },
        { data: 2, expert: 2 },
        { data: 4, expert: 2 },
        { data: 4, expert: 2, zero: 0 },
        { data: 4, expert: 4 },
        { pipeline: 2, schedule: 'zero-bubble' },
        { data: 2, pipeline: 2, expert: 2 },
        { data: 2, pipeline: 2, expert: 2, schedule: 'zero-bubble' },
        { data: 2, pipeline: 2, expert: 2, schedule: 'interleaved-1f1b', chunks: 2 },
      ],
    ],
    [
      'mixture of experts with a capacity',
      { model: { ...moe, moe: { ...moe.moe, capacity_factor: 1 } } },
      [{ data: 2, expert: 2 }, { pipeline: 2 }],
    ],
  ];
  for (const [name, options, meshes] of cases)
    for (const parallel of meshes)
      it(`${name}: ${Object.entries(parallel)
        .map(([key, value]) => `${key} ${value}`)
        .join(', ')}`, async () => {
        const serial = await run(options);
        expect(await run({ ...options, parallel })).toEqual(serial);
      });

  it('whatever the microbatch shares, for a model with float inputs and another optimizer', async () => {
    const options: JobOptions = {
      dataset: vectorDataset(),
      model: mlpModel(),
      optim: { name: 'sgd', lr: 0.1 },
      batch: { global: 7, micro: 1 },
    };
    const serial = await run(options, 4);
    for (const parallel of [{ data: 2 }, { data: 3 }, { data: 7 }, { data: 2, pipeline: 3 }])
      expect(await run({ ...options, parallel }, 4)).toEqual(serial);
  });

  it('with everything recomputed in the backward', async () => {
    const options: JobOptions = { model: moe, job: { remat: 'full' } };
    expect(await run({ ...options, parallel: { data: 2, pipeline: 2, expert: 2 } })).toEqual(await run(options));
  });
});

describe('numerics: fast', () => {
  it('agrees with exact to a relative 1e-5', async () => {
    for (const parallel of [{}, { data: 2, expert: 2 }, { data: 3 }]) {
      const exact = await run({
        model: moe,
        batch: { global: 12, micro: 2 },
        optim: { name: 'sgd', lr: 0.1 },
        parallel: parallel.expert ? parallel : {},
      });
      const fast = await run({
        model: moe,
        batch: { global: 12, micro: 2 },
        optim: { name: 'sgd', lr: 0.1 },
        parallel,
        job: { numerics: 'fast' },
      });
      fast.losses.forEach((loss, i) => {
        expect(Math.abs(loss / (exact.losses[i] as number) - 1)).toBeLessThan(1e-5);
      });
    }
  });
});
