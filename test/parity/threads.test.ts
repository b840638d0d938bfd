import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { complete, prepareQuietly, resolveConfig, train } from '../../src/coordinator/index.ts';
import { jobsOf } from '../../src/coordinator/launch-threads.ts';
import type { ResolvedModel } from '../../src/modules/index.ts';
import '../../src/schedulers/index.ts';
import { float32, sha256Of } from '../../src/tensor/index.ts';
import { runInProcess } from '../../src/worker/index.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-threads-'));
afterAll(() => rmSync(root, { recursive: true }));

const words = ['the', 'whale', 'sea', 'ship', 'white', 'old', 'captain', 'sailed', 'and', 'sank'];
const corpus = join(root, 'corpus.txt');
writeFileSync(corpus, Array.from({ length: 1500 }, (_, i) => words[(i * i * 7 + i * 3) % words.length]).join(' '));

const moe = { experts: 4, top_k: 2, every: 1, hidden: 16, bias_rate: 0.01 };

function config(parallel: object, id: string) {
  return resolveConfig({
    seed: 5,
    model: { name: 'transformer-lm', args: { layers: 2, dim: 16, heads: 2, dropout: 0.1, moe } },
    data: { name: 'text', path: corpus, context: 12, tokenizer: { kind: 'char' } },
    batch: { global: 8, micro: 2 },
    optim: { name: 'adamw', lr: 0.01, clip_norm: 1 },
    engine: { threads: 1 },
    train: { steps: 30 },
    run: { dir: join(root, 'runs'), id },
    parallel,
  });
}

/** One worker without a thread and without messages. */
async function alone(): Promise<{ weights: string; losses: string }> {
  const prepared = await prepareQuietly(config({}, 'alone'));
  const model = prepared.config.model as ResolvedModel;
  const { weightsSha256, losses } = await runInProcess(
    jobsOf(prepared, { runId: 'alone', model, checkpoint: null }),
    30,
  );
  return { weights: weightsSha256, losses: sha256Of({ losses: float32(losses, [losses.length]) }) };
}

describe('worker threads, over the local transport, give the bits of one worker without messages', () => {
  const reference = alone();

  it.each([
    ['1,1,1', {}],
    ['2,1,2', { data: 2, expert: 2 }],
    ['3,1,1', { data: 3 }],
    ['1,2,1 zero-bubble', { pipeline: 2, schedule: 'zero-bubble' }],
    ['2,2,1 interleaved-1f1b', { data: 2, pipeline: 2, schedule: 'interleaved-1f1b' }],
    ['2,2,2 gpipe', { data: 2, pipeline: 2, expert: 2, schedule: 'gpipe' }],
  ])('%s', async (name, parallel) => {
    const id = name.replaceAll(/\W/g, '-');
    const { summary } = await complete(train(config(parallel, id)));
    const { weights, losses } = await reference;
    expect(summary).toMatchObject({ weights_sha256: weights, losses_sha256: losses, samples_seen: 240 });
  });
});
