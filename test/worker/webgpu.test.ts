import { describe, expect, it } from 'vitest';
import { createEngine, type Engine } from '../../src/engine/index.ts';
import { runInProcess } from '../../src/worker/index.ts';
import { findWebGpu } from '../engine/webgpu-driver.ts';
import { type JobOptions, LENGTH, makeJobs } from './jobs.ts';

const webgpu = findWebGpu();

const STEPS = 3;
const batch = { global: 4, micro: 2 };
const microbatches = batch.global / batch.micro;

/** Trains on an engine; bytes to and from the device are those of the last step alone. */
async function train(device: string, options: JobOptions) {
  const engine: Engine = await createEngine({ kind: 'onnx', device, threads: 1 });
  try {
    const { jobs, overrides } = await makeJobs({ batch, ...options });
    let perStep = { toDevice: 0, toHost: 0 };
    const result = await runInProcess(jobs, STEPS - 1, {
      overrides: { ...overrides, engine },
      finally: async (ranks) => {
        const before = engine.transferStatistics();
        await Promise.all(ranks.map((rank) => rank.step(STEPS - 1)));
        const after = engine.transferStatistics();
        perStep = { toDevice: after.toDevice - before.toDevice, toHost: after.toHost - before.toHost };
      },
    });
    return { ...result, perStep };
  } finally {
    await engine.dispose();
  }
}

async function bothWays(options: JobOptions) {
  const cpu = await train('cpu', options);
  const gpu = await train('webgpu', options);
  expect(cpu.losses[1]).not.toBe(cpu.losses[0]);
  gpu.losses.forEach((loss, i) => {
    expect(loss).toBeCloseTo(cpu.losses[i] as number, 5);
  });
  gpu.gradNorms.forEach((norm, i) => {
    expect(norm).toBeCloseTo(cpu.gradNorms[i] as number, 4);
  });
  return { cpu, gpu };
}

describe('ranks on WebGPU', () => {
  it.skipIf(webgpu.skip)(
    'leave parameters, optimizer state and residuals on the device: a batch crosses, and what is reported',
    async () => {
      expect(webgpu.missing, webgpu.toInstall).toEqual([]);
      const { cpu, gpu } = await bothWays({ optim: { clip_norm: 1 } });
      expect(cpu.perStep).toEqual({ toDevice: 0, toHost: 0 });
      const parameters = Object.keys(gpu.parameters).length;
      const tokens = 2 * batch.global * LENGTH;
      // Tokens and targets as int32; what the step's number decides of AdamW, and the clipping factor.
      expect(gpu.perStep.toDevice).toBe(4 * (tokens + 4));
      // The loss of each microbatch, and a squared norm for each parameter.
      expect(gpu.perStep.toHost).toBe(4 * (microbatches + parameters));
    },
    60_000,
  );

  it.skipIf(webgpu.skip)(
    'exchange activations, tokens of experts and gradients over a mesh',
    async () => {
      expect(webgpu.missing, webgpu.toInstall).toEqual([]);
      const moe = { experts: 2, top_k: 1, every: 2, hidden: 8, bias_rate: 0.01 };
      await bothWays({
        model: { layers: 2, dim: 8, heads: 2, moe, dropout: 0.1 },
        parallel: { data: 2, pipeline: 2, expert: 2 },
      });
    },
    60_000,
  );
});
