import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import {
  folderStore,
  type MetricsLine,
  MetricsLog,
  newestCheckpoint,
  type RunEvent,
  RunFailure,
  type RunFolder,
  readMetrics,
  resolveConfig,
  runFolderAt,
} from '../../src/coordinator/index.ts';
import { drive, RunSession, WorkerPool } from '../../src/coordinator/launch/index.ts';
import { schedulerNamed, schedulerNames, sync } from '../../src/schedulers/index.ts';
import type { WorkerJob } from '../../src/worker/index.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-sync-'));
afterAll(() => rmSync(root, { recursive: true }));
const entry = new URL('../coordinator/fixtures/fake-worker.mjs', import.meta.url);
const MICROBATCHES = 4;

interface Trial {
  readonly folder: RunFolder;
  readonly events: RunEvent[];
  readonly log: MetricsLog;
  readonly session: RunSession;
  readonly error: unknown;
}

/** Runs the sync scheduler over workers that only pretend to compute. */
async function trial(
  id: string,
  train: Record<string, number>,
  options: { model?: object; from?: number; stopAfter?: number; world?: number } = {},
): Promise<Trial> {
  const config = resolveConfig({ train, batch: { global: 8, micro: 2 } });
  const folder = runFolderAt(join(root, id));
  const from = options.from === undefined ? null : await newestCheckpoint(folder.checkpoints, options.from);
  const { world = 2 } = options;
  const model = { microbatches: MICROBATCHES, start: options.from ?? 0, ...options.model };
  const jobs = Array.from({ length: world }, (_, rank) => ({ rank, world, model })) as unknown as WorkerJob[];
  await import('node:fs/promises').then(({ mkdir }) => mkdir(folder.path, { recursive: true }));
  const log = await MetricsLog.open(folder.metrics, options.from ?? 0);
  const abort = new AbortController();
  const { pool } = await WorkerPool.start({ jobs, entry, deadlineMs: 10_000, names: () => 'x' });
  const session = new RunSession(
    {
      config,
      pool,
      store: folderStore(folder.checkpoints),
      log,
      signal: abort.signal,
      step: options.from ?? 0,
      microbatches: MICROBATCHES,
      tokensPerExample: 16,
      unit: 'tokens',
      stretches: [],
      folder: folder.path,
      oneGradient: true,
      plan: null,
      flops: { forward: 1, backward: 2 },
      model: { layers: [], loss: { kind: 'none', forward: () => [] } },
      from: null,
      largestPrediction: 2,
      evaluationMicrobatches: () => 5,
      checkpointInfo: () => ({
        seed: 0,
        batch: config.batch,
        engine: 'fake',
        mesh: { data: world, pipeline: 1, expert: 1 },
        wall_s: 1,
        recoveries: 0,
      }),
    },
    from?.path ?? null,
  );
  const events: RunEvent[] = [];
  let error: unknown = null;
  try {
    for await (const event of drive(session)) {
      events.push(event);
      if (event.type === 'step' && event.step === options.stopAfter) abort.abort();
    }
    await pool.stop();
  } catch (caught) {
    error = caught;
  } finally {
    await pool.terminate();
    await session.settle();
    await log.close();
  }
  return { folder, events, log, session, error };
}

const order = (events: readonly RunEvent[]): string[] =>
  events.map((event) => ('step' in event ? `${event.type} ${event.step}` : event.type));

describe('the sync scheduler', () => {
  it('is registered', () => {
    expect(schedulerNames()).toContain('sync');
    expect(schedulerNamed('sync')).toBe(sync);
    expect(() => schedulerNamed('snyc')).toThrow(/no scheduler 'snyc'; known: .*sync/);
  });

  it('passes on what ranks note, once', async () => {
    const { events, error } = await trial('note', { steps: 3 }, { model: { misbehave: 'note', at: 1 } });
    expect(error).toBeNull();
    expect(events.flatMap((event) => (event.type === 'warning' ? [event.message] : []))).toEqual([
      'something about step 1',
    ]);
  });

  it.each([
    ['forget', 'after step 4 rank 1 holds other bits than rank 0 in param/shared'],
    ['norm', "in step 4 the gradient's norm is 1 on rank 0, but rank 1 has 2"],
  ])('warns once of replicas that differ (%s), and goes on', async (misbehave, message) => {
    const model = { misbehave, who: 1, at: 3 };
    const { events, error } = await trial(misbehave, { steps: 7, checkpoint_every: 2 }, { model, world: 3 });
    expect(error).toBeNull();
    const warnings = events.flatMap((event) => (event.type === 'warning' ? [event.message] : []));
    expect(warnings).toEqual([expect.stringContaining(`${message}. Replicas have`)]);
    expect(order(events).at(-1)).toBe('checkpointed 7');
  });

  it('evaluates and checkpoints when due and at the end, and keeps the last ones', async () => {
    const { events, folder, error } = await trial('due', {
      steps: 7,
      eval_every: 3,
      checkpoint_every: 2,
      keep_last: 2,
    });
    expect(error).toBeNull();
    const all = order(events);
    const saved = ['checkpointed 2', 'checkpointed 4', 'checkpointed 6', 'checkpointed 7'];
    expect(all.filter((event) => !saved.includes(event))).toEqual([
      'step 1',
      'step 2',
      'step 3',
      'evaluated 3',
      'step 4',
      'step 5',
      'step 6',
      'evaluated 6',
      'step 7',
      'evaluated 7',
    ]);
    // Each is told when it is safe, which may be some steps later.
    expect(all.filter((event) => saved.includes(event))).toEqual(saved);
    for (const event of saved)
      expect(all.indexOf(event)).toBeGreaterThan(all.indexOf(event.replace('checkpointed', 'step')));
    expect(all.at(-1)).toBe('checkpointed 7');
    expect((await readdir(folder.checkpoints)).sort()).toEqual(['step-6', 'step-7']);
  });

  it('finishes losses and metrics in the canonical tree, whatever the number of ranks', async () => {
    const runs = await Promise.all([1, 2, 3].map((world) => trial(`world${world}`, { steps: 3 }, { world })));
    const [first] = runs;
    const step = first?.events[0] as Extract<RunEvent, { type: 'step' }>;
    const f = Math.fround;
    const leaf = (m: number) => f(10 + m / 10);
    expect(step.loss).toBe(f(f(f(leaf(0) + leaf(1)) + f(leaf(2) + leaf(3))) / 4));
    expect(step.metrics.vector).toEqual([1.5, 1]);
    for (const { log } of runs) expect(log.sha256()).toBe(first?.log.sha256());
    const bytes = new Uint8Array(Float32Array.from(first?.log.losses ?? []).buffer);
    expect(first?.log.sha256()).toBe(createHash('sha256').update(bytes).digest('hex'));
  });

  it('writes one line a step with the promised keys', async () => {
    const { folder } = await trial('lines', { steps: 2 });
    const lines: MetricsLine[] = await readMetrics(folder.metrics);
    expect(lines.map(({ step }) => step)).toEqual([1, 2]);
    for (const key of ['loss', 'grad_norm', 'lr', 'tokens_per_s', 'step_ms', 'comm_ms', 'vector'])
      expect(lines[0]).toHaveProperty(key);
    expect(lines[0]).toMatchObject({ step_ms: 2, comm_ms: 1, grad_norm: 1 });
    expect(await readFile(folder.metrics, 'utf8')).toMatch(/^\{.*\}\n\{.*\}\n$/);
  });

  it('stops after the step when interrupted, with a checkpoint, and goes on as if nothing had happened', async () => {
    const whole = await trial('whole', { steps: 9 });
    const first = await trial('cut', { steps: 9 }, { stopAfter: 4 });
    const stopped = first.session.position;
    // Ranks had leave to work ahead; all stop at the same step.
    expect(stopped).toBeGreaterThanOrEqual(4);
    expect(stopped).toBeLessThanOrEqual(6);
    expect(order(first.events).at(-1)).toBe(`checkpointed ${stopped}`);
    const second = await trial('cut', { steps: 9 }, { from: stopped });
    expect(second.events[0]).toMatchObject({ type: 'step', step: stopped + 1 });
    expect(second.log.sha256()).toBe(whole.log.sha256());
    expect(await newestCheckpoint(second.folder.checkpoints)).toMatchObject({ index: { step: 9 } });
  });

  it('stops when the loss is not finite and keeps the last good checkpoint', async () => {
    const { error, folder } = await trial(
      'nan',
      { steps: 9, checkpoint_every: 2 },
      { model: { misbehave: 'nan', at: 5 } },
    );
    expect(error).toBeInstanceOf(RunFailure);
    expect((error as RunFailure).reports[0]).toMatchObject({ name: 'NotFinite', step: 5 });
    expect((error as RunFailure).message).toMatch(/loss is NaN.*step-4[\s\S]*optim\.lr/);
    expect((await newestCheckpoint(folder.checkpoints)).index.step).toBe(4);
  });

  it('has nothing to do for a run that is complete', async () => {
    await trial('again', { steps: 3 });
    const { events } = await trial('again', { steps: 3 }, { from: 3 });
    expect(order(events)).toEqual(['evaluated 3']);
  });
});
