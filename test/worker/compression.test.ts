import { describe, expect, it } from 'vitest';
import { compressionSchema } from '../../src/comm/index.ts';
import { createRanks, runInProcess } from '../../src/worker/index.ts';
import { makeJobs, mlpModel, vectorDataset } from './jobs.ts';

const dataset = vectorDataset(5, 64);
// Large enough that the all-reduce has shares and pieces.
const model = mlpModel(5, 192, 3);
const batch = { global: 16, micro: 2 };

const jobsWith = (compression: Record<string, unknown> | null, parallel: Record<string, unknown>) =>
  makeJobs({
    dataset,
    model,
    batch,
    parallel: { zero: 0, ...parallel },
    optim: { lr: 0.001 },
    job: compression ? { compression: compressionSchema.parse(compression) } : {},
  });

describe('training with compressed edges', () => {
  it.each([
    ['f16', { gradients: 'f16' }, { data: 2 }, 2],
    ['bf16, three ranks', { gradients: 'bf16' }, { data: 3 }, 2],
    ['int8, four ranks', { gradients: 'int8' }, { data: 4 }, 3.9],
    ['top-k', { gradients: 'topk', topk_ratio: 0.1 }, { data: 2 }, 5],
    ['top-k, three ranks of several tree nodes', { gradients: 'topk', topk_ratio: 0.1 }, { data: 3 }, 5],
    ['activations', { activations: 'f16' }, { data: 1, pipeline: 2 }, 1.9],
    ['everything', { gradients: 'int8', activations: 'int8' }, { data: 2, pipeline: 2 }, 3.4],
  ])(
    '%s: replicas stay equal to the bit, a second run too, fewer bytes, and the loss falls',
    async (_, compression, parallel, ratio) => {
      const run = async (with_: Record<string, unknown> | null) => {
        const { jobs, overrides } = await jobsWith(with_, parallel);
        const { ranks, dispose } = await createRanks(jobs, overrides);
        try {
          const losses: number[] = [];
          let bytes = 0;
          let saved = 0;
          for (let step = 0; step < 12; step++) {
            const reports = await Promise.all(ranks.map((rank) => rank.step(step)));
            const leaves = reports.flatMap(({ metrics }) => metrics.loss ?? []);
            losses.push(leaves.reduce((sum, [, loss]) => sum + Number(loss), 0) / leaves.length);
            bytes += reports.reduce((sum, { commBytes }) => sum + commBytes, 0);
            saved += reports.reduce((sum, { commBytesSaved }) => sum + commBytesSaved, 0);
          }
          const params = await Promise.all(ranks.map((rank) => rank.parameters()));
          return { losses, bytes, saved, params };
        } finally {
          await dispose();
        }
      };
      const plain = await run(null);
      const first = await run(compression);
      const second = await run(compression);
      expect(second.params).toEqual(first.params);
      expect(second.losses).toEqual(first.losses);
      const seen = new Map<string, unknown>();
      for (const held of first.params)
        for (const [path, tensor] of Object.entries(held))
          expect(seen.get(path) ?? tensor, path).toEqual(seen.set(path, tensor).get(path));
      expect(plain.saved).toBe(0);
      expect(plain.bytes / first.bytes).toBeGreaterThan(ratio * 0.9);
      // (Headers are all that is added; of several nodes of the tree top-k sends the sum.)
      const merged = 'topk_ratio' in compression && parallel.data === 3;
      if (!merged) expect(Math.abs(first.bytes + first.saved - plain.bytes)).toBeLessThan(0.001 * plain.bytes);
      expect(first.losses.at(-1)).toBeLessThan((first.losses[0] as number) * 0.8);
      expect(first.losses).not.toEqual(plain.losses);
    },
  );

  it('without codecs there are the bits of one worker', async () => {
    const one = await jobsWith(null, {});
    const two = await jobsWith({}, { data: 2 });
    const [a, b] = [await runInProcess(one.jobs, 3, one), await runInProcess(two.jobs, 3, two)];
    expect(b.weightsSha256).toBe(a.weightsSha256);
  });
});
