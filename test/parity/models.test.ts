import { beforeAll, describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/index.ts';
import { buildModel, type ModelConfig, modelSchema } from '../../src/modules/index.ts';
import { type JobOptions, tokenDataset } from '../worker/jobs.ts';
import { pictures } from './images.ts';
import { describeCell, run, serial } from './run.ts';

type Parallel = NonNullable<JobOptions['parallel']>;

/** A model of the zoo on a dataset. */
async function zoo(name: string, args: object, dataset: Dataset): Promise<JobOptions> {
  const config = modelSchema.parse({ name, args }) as ModelConfig;
  return { dataset, model: (await buildModel(config, dataset.info)).model };
}

/** Every mesh gives the serial bits of a variant. */
function sameBits(name: string, make: () => JobOptions | Promise<JobOptions>, meshes: readonly Parallel[]): void {
  describe(`${name}: the bits of one worker`, () => {
    let options: JobOptions;
    beforeAll(async () => {
      options = await make();
    });

    it('which learns', async () => {
      const { losses } = await serial(name, options, { evaluate: true });
      expect(losses.at(-1)).toBeLessThan((losses[0] as number) * 0.9);
    });

    it.each(meshes.map((parallel) => [describeCell(parallel), parallel] as const))('%s', async (_, parallel) => {
      const { sha256 } = await run({ ...options, parallel }, { evaluate: true });
      expect(sha256).toBe((await serial(name, options, { evaluate: true })).sha256);
    });
  });
}

const block = { layers: 2, dim: 8, heads: 2, ffn: { hidden: 16 } };
const mixture = { experts: 4, top_k: 2, every: 1, hidden: 8 };
const zeroBubble = { pipeline: 2, schedule: 'zero-bubble' };

// The running statistics are part of the hash.
sameBits(
  'convolutions with batch norm',
  () => zoo('cnn', { channels: [4, 6], norm: 'batch', hidden: 8, dropout: 0.1 }, pictures()),
  [{ data: 2 }, { data: 3 }, zeroBubble, { data: 2, pipeline: 3 }],
);

sameBits(
  'GRU',
  async () => ({ ...(await zoo('gru-lm', { layers: 2, dim: 6, hidden: 8 }, tokenDataset())), optim: { lr: 0.03 } }),
  [{ data: 3 }, zeroBubble, { data: 2, pipeline: 2 }],
);

sameBits(
  'LSTM',
  async () => ({ ...(await zoo('lstm-lm', { dim: 6, hidden: 8 }, tokenDataset())), optim: { lr: 0.03 } }),
  [{ data: 2 }, { pipeline: 2 }, { data: 3, ...zeroBubble }],
);

sameBits('Muon with experts', () => ({ model: { ...block, moe: mixture }, optim: { name: 'muon', lr: 0.01 } }), [
  { data: 4, expert: 4 },
  { data: 2, expert: 2, ...zeroBubble },
]);

sameBits(
  'Lion with a schedule',
  () => ({ model: block, optim: { name: 'lion', lr: 0.003, schedule: { name: 'cosine', warmup: 5 } } }),
  [{ data: 3 }, { data: 2, pipeline: 2 }],
);

// The routers' biases are part of the hash.
sameBits(
  'a router with sigmoid scores, balanced by a bias, and a shared expert',
  () => ({ model: { ...block, moe: { ...mixture, scores: 'sigmoid', bias_rate: 0.01, balance_loss: 0, shared: 8 } } }),
  [{ data: 3 }, { data: 4, expert: 2 }, { data: 2, pipeline: 2, expert: 2, schedule: 'gpipe' }],
);

sameBits('experts that choose their tokens', () => ({ model: { ...block, moe: { ...mixture, routing: 'expert' } } }), [
  { data: 2, expert: 2 },
  zeroBubble,
]);

sameBits(
  'everything recomputed in the backward pass',
  () => ({ model: { ...block, dropout: 0.1, moe: mixture }, job: { remat: 'full' } }),
  [{ data: 3 }, { data: 2, pipeline: 2, expert: 2 }, { data: 2, expert: 2, ...zeroBubble }],
);

// Trees over five and six leaves are lopsided, and shares are uneven.
for (const microbatches of [5, 6])
  sameBits(
    `${microbatches} microbatches`,
    () => ({ model: { ...block, moe: { ...mixture, experts: 6 } }, batch: { global: 2 * microbatches, micro: 2 } }),
    [
      { data: 2 },
      { data: 3 },
      { data: 2, pipeline: 2, schedule: 'interleaved-1f1b' },
      { data: 3, ...zeroBubble },
      ...(microbatches === 6
        ? [
            { data: 3, expert: 3 },
            { data: 2, pipeline: 2, expert: 2 },
          ]
        : []),
    ],
  );

describe('the hash', () => {
  it('is another for another seed, and for another number of steps', async () => {
    const hashes = [
      await run({ model: block }, { steps: 3 }),
      await run({ model: block, job: { seed: 8 } }, { steps: 3 }),
      await run({ model: block }, { steps: 4 }),
    ].map(({ sha256 }) => sha256);
    expect(new Set(hashes).size).toBe(3);
  });
});
