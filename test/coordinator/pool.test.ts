import { afterEach, describe, expect, it } from 'vitest';
import { RunFailure } from '../../src/coordinator/failure.ts';
import { type PoolOptions, WorkerPool } from '../../src/coordinator/launch/index.ts';
import type { WorkerJob } from '../../src/worker/index.ts';

const entry = new URL('./fixtures/fake-worker.mjs', import.meta.url);
let pools: WorkerPool[] = [];
afterEach(async () => {
  await Promise.all(pools.map((pool) => pool.terminate()));
  pools = [];
});

function options(model: object, world = 2, more: Partial<PoolOptions> = {}): PoolOptions {
  const jobs = Array.from({ length: world }, (_, rank) => ({
    rank,
    world,
    model: { microbatches: 4, ...model },
    train: { instructions: [], groups: {} },
    evaluate: { instructions: [], groups: {} },
  }));
  return {
    jobs: jobs as unknown as WorkerJob[],
    entry,
    deadlineMs: 10_000,
    graceMs: 500,
    closeMs: 300,
    names: (rank, mode, index) => `instruction ${index} of program ${mode} of rank ${rank}`,
    ...more,
  };
}

async function start(...args: Parameters<typeof options>): Promise<WorkerPool> {
  const { pool } = await WorkerPool.start(options(...args));
  pools.push(pool);
  return pool;
}

async function failureOf(promise: Promise<unknown>): Promise<RunFailure> {
  const before = performance.now();
  const error = await promise.then(
    () => new Error('nothing failed'),
    (caught: unknown) => caught,
  );
  expect(error).toBeInstanceOf(RunFailure);
  expect(performance.now() - before).toBeLessThan(5000);
  return error as RunFailure;
}

/** Native resources that a pool could leave behind. (The test runner has timers of its own; they come and go.) */
function held(): string[] {
  return process.getActiveResourcesInfo().filter((kind) => /MessagePort|Worker/.test(kind));
}

describe('a pool of workers', () => {
  it('runs granted steps, evaluates, and stops without a trace', async () => {
    const before = held();
    const { pool, ready } = await WorkerPool.start(options({}));
    expect(ready.map(({ params }) => params)).toEqual([['p0'], ['p1']]);
    pool.grant(2);
    const reports = [await pool.step(0), await pool.step(1)];
    expect(reports.map((step) => step.map((report) => report.step))).toEqual([
      [0, 0],
      [1, 1],
    ]);
    const metrics = await pool.evaluate('validation', 3);
    expect(metrics.map((of) => of.loss)).toEqual([
      [
        [0, 2],
        [2, 4],
      ],
      [[1, 3]],
    ]);
    expect(await pool.stop()).toEqual([null, null]);
    expect(held()).toEqual(before);
  });

  const cases: readonly (readonly [misbehave: string, name: string, message: RegExp])[] = [
    ['throw', 'ModuleError', /shape mismatch/],
    ['uncaught', 'TypeError', /not a function/],
    ['exit', 'WorkerExit', /exited with code 7/],
  ];
  for (const [misbehave, name, message] of cases)
    it(`ends with one cause when a worker does '${misbehave}', and leaves nothing behind`, async () => {
      const before = held();
      const pool = await start({ misbehave, at: 1, who: 1 }, 3);
      pool.grant(3);
      await pool.step(0);
      const failure = await failureOf(pool.step(1));
      const [cause] = failure.reports;
      expect(cause).toMatchObject({ rank: 1, name, secondary: false });
      expect(cause.message).toMatch(message);
      expect(failure.message).toMatch(/^rank 1/);
      expect(failure.lastSeen).toHaveLength(3);
      expect(held()).toEqual(before);
    });

  it('names where the failing worker was', async () => {
    const pool = await start({ misbehave: 'throw', who: 1 });
    pool.grant(1);
    const { message, reports } = await failureOf(pool.step(0));
    expect(reports[0]).toMatchObject({ step: 0, path: 'blocks.1.mlp', microbatch: 1, instruction: 'Forward s0.0 m1' });
    expect(message).toBe(
      'rank 1, step 0, module blocks.1.mlp, Forward s0.0 m1, microbatch 1: ModuleError: shape mismatch',
    );
  });

  it('says of a dead worker what it was last seen doing', async () => {
    const pool = await start({ misbehave: 'exit', who: 1, at: 2 });
    pool.grant(3);
    const failure = await failureOf(pool.step(2));
    expect(failure.reports[0].instruction).toBe('step 2, instruction 3 of program 0 of rank 1');
  });

  for (const misbehave of ['spin', 'silent'])
    it(`finds a worker that hangs ('${misbehave}') and shows what everyone was doing`, async () => {
      const pool = await start({ misbehave, who: 1, at: 1 }, 2, { deadlineMs: 300 });
      pool.grant(2);
      await pool.step(0);
      const { reports, message } = await failureOf(pool.step(1));
      expect(reports[0]).toMatchObject({ rank: 1, name: 'Hang' });
      expect(message).toMatch(/silent for \d+ s.*comm\.deadline_s/);
      expect(message).toMatch(/rank 0: step 1, instruction 3.*\nrank 1: step 1, instruction 3 of program 0 of rank 1/);
    });

  it('fails to start when a worker does, or never gets ready', async () => {
    const before = held();
    expect((await failureOf(WorkerPool.start(options({ misbehave: 'start' })))).message).toMatch(/cannot compile/);
    const silent = WorkerPool.start(options({ misbehave: 'never-ready' }, 2, { startDeadlineMs: 300 }));
    expect((await failureOf(silent)).message).toMatch(/rank 0.*Hang[\s\S]*rank 0: starting/);
    expect(held()).toEqual(before);
  });

  it('can be abandoned while it starts', async () => {
    const abort = new AbortController();
    const starting = WorkerPool.start(options({ misbehave: 'never-ready' }), abort.signal);
    abort.abort(new Error('enough'));
    await expect(starting).rejects.toThrow('enough');
  });
});
