import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { readdir, readFile, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import {
  complete,
  evaluateRun,
  generateText,
  type RunEvent,
  RunFailure,
  type RunSummary,
  readMetrics,
  resume,
  runFolderAt,
  startFirstThread,
  train,
  type WaitingThreads,
} from '../../src/coordinator/index.ts';
import '../../src/schedulers/index.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-train-'));
afterAll(() => rmSync(root, { recursive: true }));
beforeAll(() => {
  const words = ['the', 'whale', 'sea', 'ship', 'white', 'old', 'captain', 'sailed', 'and', 'sank'];
  const text = Array.from({ length: 1500 }, (_, i) => words[(i * i * 7 + i * 3) % words.length]).join(' ');
  writeFileSync(join(root, 'corpus.txt'), text);
});

/** A tiny mixture-of-experts model on a tiny text. */
function config(id: string, more: object = {}, parallel: object = { data: 2, expert: 2 }): Record<string, unknown> {
  return {
    name: 'tiny',
    seed: 3,
    model: {
      name: 'transformer-lm',
      args: { layers: 2, dim: 16, heads: 2, moe: { experts: 2, top_k: 1, hidden: 16 } },
    },
    data: { name: 'text', path: join(root, 'corpus.txt'), context: 12, tokenizer: { kind: 'char' } },
    batch: { global: 8, micro: 2 },
    optim: { name: 'adamw', lr: 0.01, clip_norm: 1 },
    engine: { threads: 1 },
    run: { dir: join(root, 'runs'), id },
    parallel,
    ...more,
    train: { steps: 6, ...(more as { train?: object }).train },
  };
}

async function run(
  id: string,
  ...rest: [more?: object, parallel?: object]
): Promise<{ events: RunEvent[]; summary: RunSummary; dir: string }> {
  const events: RunEvent[] = [];
  const finished = await complete(train(config(id, ...rest)), (event) => events.push(event));
  return { events, summary: finished.summary as RunSummary, dir: finished.dir };
}

describe('train', () => {
  it('learns, and leaves a run folder with everything in it', async () => {
    const { events, summary, dir } = await run('first', {
      train: { steps: 20, eval_every: 10, checkpoint_every: 10, keep_last: 1 },
    });
    const types = events.map((event) => event.type);
    expect(types.slice(0, 5)).toEqual(['preparing', 'preparing', 'preparing', 'preparing', 'started']);
    expect(types.filter((type) => type === 'step')).toHaveLength(20);
    expect(types.filter((type) => type === 'evaluated')).toHaveLength(2);
    expect(types.at(-1)).toBe('finished');
    const started = events.find((event) => event.type === 'started');
    expect(started).toMatchObject({ world: 2, microbatches: 4, steps: 20, unit: 'tokens', threads: 1 });
    expect((await readdir(dir)).sort()).toEqual(
      ['checkpoints', 'config.yaml', 'metrics.jsonl', 'model.json', 'summary.json', 'tokenizer.json'].sort(),
    );
    expect(await readdir(join(dir, 'checkpoints'))).toEqual(['step-20']);
    expect(Object.keys(summary)).toEqual(
      expect.arrayContaining([
        'steps',
        'loss',
        'val_loss',
        'baselines',
        'wall_s',
        'tokens_per_s',
        'weights_sha256',
        'losses_sha256',
        'samples_seen',
        'recoveries',
      ]),
    );
    expect(JSON.parse(await readFile(join(dir, 'summary.json'), 'utf8'))).toEqual(summary);
    expect(summary).toMatchObject({ steps: 20, samples_seen: 160, recoveries: 0 });
    expect(summary.weights_sha256).toMatch(/^[0-9a-f]{64}$/);
    const lines = await readMetrics(join(dir, 'metrics.jsonl'));
    expect(lines).toHaveLength(20);
    expect(lines.at(-1)?.loss).toBe(summary.loss);
    expect(summary.loss).toBeLessThan(lines[0]?.loss as number);
  });

  it('gives the same bits on one worker as on several', async () => {
    const hashes = async (id: string, parallel: object) => {
      const { summary } = await run(id, {}, parallel);
      return [summary.weights_sha256, summary.losses_sha256];
    };
    const serial = await hashes('serial', {});
    expect(await hashes('data', { data: 2 })).toEqual(serial);
    expect(await hashes('expert', { data: 2, expert: 2 })).toEqual(serial);
    expect(await hashes('pipeline', { pipeline: 2 })).toEqual(serial);
  });

  it('is interrupted with a checkpoint and resumes on another mesh to the same bits', async () => {
    const whole = await run('undisturbed');
    const abort = new AbortController();
    const first: RunEvent[] = [];
    const stopped = await complete(train(config('disturbed'), { signal: abort.signal }), (event) => {
      first.push(event);
      if (event.type === 'step' && event.step === 2) abort.abort();
    });
    expect(stopped.status).toBe('interrupted');
    expect(stopped.step).toBeLessThan(6);
    expect(existsSync(stopped.checkpoint as string)).toBe(true);
    expect(existsSync(runFolderAt(stopped.dir).summary)).toBe(false);
    const second: RunEvent[] = [];
    const begun = startFirstThread() as WaitingThreads;
    const taken = vi.spyOn(begun, 'take');
    const events = resume(stopped.dir, ['parallel.data=1', 'parallel.expert=1', 'parallel.pipeline=2'], { begun });
    const finished = await complete(events, (event) => second.push(event));
    // The thread that was there already, and one more.
    expect(taken.mock.results.map(({ value }) => value?.length)).toEqual([2]);
    expect(second.find((event) => event.type === 'step')).toMatchObject({ step: stopped.step + 1 });
    expect(finished.summary?.weights_sha256).toBe(whole.summary.weights_sha256);
    expect(finished.summary?.losses_sha256).toBe(whole.summary.losses_sha256);
    expect(finished.summary?.val_loss).toBe(whole.summary.val_loss);
  });

  it('resumes from the checkpoint before a torn one, with a warning', async () => {
    const whole = await run('torn', { train: { steps: 6, checkpoint_every: 3 } });
    const shard = (await readdir(join(whole.dir, 'checkpoints/step-6'))).find((name) => name.endsWith('.safetensors'));
    await truncate(join(whole.dir, 'checkpoints/step-6', shard as string), 100);
    const events: RunEvent[] = [];
    const again = await complete(resume(whole.dir), (event) => events.push(event));
    expect(events[0]).toMatchObject({
      type: 'warning',
      message: expect.stringMatching(/skipped a damaged checkpoint.*truncated/),
    });
    expect(again.summary?.weights_sha256).toBe(whole.summary.weights_sha256);
    expect(again.summary?.losses_sha256).toBe(whole.summary.losses_sha256);
  });

  it('refuses to resume with another model', async () => {
    const { dir } = await run('other');
    const events = resume(dir, ['model.args.dim=32']);
    await expect(complete(events)).rejects.toThrow(/of another model[\s\S]*in it, but \[/);
  });

  it('evaluates and samples from a finished run', async () => {
    const { dir, summary } = await run('used');
    const evaluation = await evaluateRun(dir);
    expect(evaluation).toMatchObject({
      loss: summary.val_loss,
      step: 6,
      split: 'validation',
      baselines: summary.baselines,
    });
    expect(await evaluateRun(dir, { overrides: ['parallel.data=1', 'parallel.expert=1'] })).toMatchObject({
      loss: summary.val_loss,
    });
    const pieces: string[] = [];
    const options = { prompt: 'the ', characters: 30, seed: 4 };
    const sample = await generateText(dir, { ...options, onText: (piece) => pieces.push(piece) });
    expect(sample.text).toHaveLength(30);
    expect(pieces.join('')).toBe(sample.text);
    expect(await generateText(dir, options)).toMatchObject({ text: sample.text });
    expect((await generateText(dir, { ...options, tokens: 5 })).text).toHaveLength(5);
  });
});

describe('a failing run', () => {
  const module = (body: string) => `
    import * as tf from '@tensorflow/tfjs-core';
    import { nn } from 'plexus/modules';
    export function model(args, info) {
      return {
        layers: [
          { name: 'embed', module: nn.embedding(info.vocabSize, 8) },
          { name: 'odd', module: { kind: 'odd', forward(params, [x], ctx) { ${body} } } },
          { name: 'head', module: nn.linear(8, info.vocabSize) },
        ],
        loss: nn.crossEntropy(),
      };
    }`;
  const withModule = (id: string, body: string) => {
    const file = join(root, `${id}.js`);
    writeFileSync(file, module(body));
    return config(id, { model: { file } }, { data: 2 });
  };

  it('names the module that throws', async () => {
    await expect(complete(train(withModule('throws', "throw new Error('no such luck');")))).rejects.toThrow(
      /odd[\s\S]*no such luck/,
    );
    expect(existsSync(join(root, 'runs/throws'))).toBe(false);
  });

  it('says so when a worker dies without a word', async () => {
    const file = join(root, 'dies.js');
    const dying = module('return x;').replace(
      'export function',
      "import { isMainThread } from 'node:worker_threads';\n    export function",
    );
    writeFileSync(file, dying.replace('return {', 'if (!isMainThread) process.exit(3);\n      return {'));
    const failing = complete(train(config('dies', { model: { file } }, { data: 2 })));
    const failure = await failing.catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(RunFailure);
    expect((failure as RunFailure).message).toMatch(/^rank [01], starting: WorkerExit: .*exited with code 3/);
  });

  it('names the step and the first module whose output is not finite', async () => {
    const events: RunEvent[] = [];
    const failing = complete(train(withModule('nan', 'return tf.log(tf.sub(tf.mean(x), 10)).mul(x);')), (event) =>
      events.push(event),
    );
    const failure = await failing.catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(RunFailure);
    expect((failure as RunFailure).reports[0]).toMatchObject({ step: 0, path: expect.stringMatching(/^odd/) });
    expect(events.at(-1)?.type).toBe('failed');
  });
});
