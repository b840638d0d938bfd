import { expect, it } from 'vitest';
import { createEngine } from '../../src/engine/index.ts';
import { runInProcess } from '../../src/worker/index.ts';
import { makeJobs } from './jobs.ts';

async function train(kind: 'onnx' | 'tfjs', device: string) {
  const engine = await createEngine({ kind, device, threads: 1 });
  try {
    const { jobs, overrides } = await makeJobs({
      model: { layers: 2, dim: 8, heads: 2, moe: { experts: 4, top_k: 2, every: 2, hidden: 8 }, dropout: 0.1 },
      parallel: { data: 2, expert: 2 },
      batch: { global: 4, micro: 2 },
    });
    return await runInProcess(jobs, 3, { overrides: { ...overrides, engine } });
  } finally {
    await engine.dispose();
  }
}

// WebAssembly shows its memory to nobody: values go in and out as they would on a GPU.
it.each(['cpu', 'wasm'])(
  'the tfjs engine on %s trains a mixture of experts as the onnx engine does',
  async (device) => {
    const expected = await train('onnx', 'cpu');
    const found = await train('tfjs', device);
    found.losses.forEach((loss, i) => {
      expect(loss).toBeCloseTo(expected.losses[i] as number, 5);
    });
    found.gradNorms.forEach((norm, i) => {
      expect(norm).toBeCloseTo(expected.gradNorms[i] as number, 4);
    });
  },
);
