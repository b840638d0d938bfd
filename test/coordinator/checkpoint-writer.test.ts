import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SourceGone } from '../../src/coordinator/cluster/errors.ts';
import {
  type CheckpointStore,
  folderStore,
  MetricsLog,
  newestCheckpoint,
  type StoredCheckpoint,
} from '../../src/coordinator/index.ts';
import { CheckpointWriter, type WorkersSnapshot } from '../../src/coordinator/launch/index.ts';

let folder: string;
let log: MetricsLog;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'plexus-writer-'));
  log = await MetricsLog.open(join(folder, 'metrics.jsonl'), 0);
});
afterEach(async () => {
  await log.close();
  await rm(folder, { recursive: true });
});

const info = {
  seed: 1,
  batch: { global: 8, micro: 2 },
  engine: 'test',
  mesh: { data: 1, pipeline: 1, expert: 1 },
  wall_s: 1,
  recoveries: 0,
};
const train = { keep_last: 2, keep_every: 0, checkpoint_on_error: 'continue' as const };
const times = () => ({ began: performance.now(), waitedMs: 0 });

/** A copy that is written when it is told to be. */
function copy(step: number) {
  let go: (error?: Error) => void = () => undefined;
  const asked = new Promise<Error | undefined>((resolve) => {
    go = resolve;
  });
  let released = 0;
  const snapshot: WorkersSnapshot = {
    step,
    differing: null,
    async write() {
      const error = await asked;
      if (error) throw error;
      return [];
    },
    release: () => {
      released += 1;
    },
  };
  return { snapshot, go, released: () => released };
}

function writer(store: CheckpointStore = folderStore(join(folder, 'checkpoints')), more: Partial<typeof train> = {}) {
  return new CheckpointWriter({ store, log, train: { ...train, ...more }, from: null });
}

describe('a checkpoint that is written while training goes on', () => {
  it('is told of when it is safe, and only then is the newest', async () => {
    const at = writer();
    const first = copy(3);
    at.start(first.snapshot, info, times());
    expect([at.writing, at.last, at.events()]).toEqual([3, null, []]);
    expect(() => at.start(copy(4).snapshot, info, times())).toThrow(/step 3 is still being written/);
    first.go();
    await at.idle();
    const path = join(folder, 'checkpoints', 'step-3');
    expect([at.writing, at.last]).toEqual([null, { step: 3, path }]);
    expect(at.events()).toEqual([{ type: 'checkpointed', step: 3, path, bytes: 0, ms: expect.any(Number), waitMs: 0 }]);
    expect(at.events()).toEqual([]);
    expect(first.released()).toBe(1);
  });

  it('that fails costs nothing but itself', async () => {
    const at = writer();
    for (const [step, error] of [[1], [2, Object.assign(new Error('ENOSPC: no space'), { code: 'ENOSPC' })], [3]]) {
      const { snapshot, go, released } = copy(step as number);
      at.start(snapshot, info, times());
      go(error as Error | undefined);
      await at.idle();
      expect(released()).toBe(1);
      if (step !== 2) expect(at.failure).toBeNull();
      else {
        expect(at.failure).toMatchObject({
          name: 'CheckpointError',
          checkpoint: join(folder, 'checkpoints', 'step-1'),
        });
        expect(await readdir(join(folder, 'checkpoints'))).toEqual(['step-1']);
      }
    }
    expect(at.events().map((event) => ('message' in event ? event.message : event.step))).toEqual([
      1,
      'the checkpoint of step 2 could not be written (that of step 1 is kept): ENOSPC: no space; training goes on (train.checkpoint_on_error)',
      3,
    ]);
    expect((await newestCheckpoint(join(folder, 'checkpoints'))).index.step).toBe(3);
  });

  it('that was lost with its ranks is no failure, and is to be made up for', async () => {
    const at = writer(undefined, { checkpoint_on_error: 'stop' as 'continue' });
    const lost = copy(2);
    at.start(lost.snapshot, info, times());
    lost.go(new SourceGone('the generation has ended'));
    await at.idle();
    expect([at.lost, at.failure, lost.released()]).toEqual([true, null, 1]);
    expect(at.events()).toEqual([
      {
        type: 'warning',
        message:
          'the checkpoint of step 2 could not be written (there is none before it): the generation has ended; another is written at once',
      },
    ]);
    const next = copy(3);
    at.start(next.snapshot, info, times());
    expect(at.lost).toBe(false);
    next.go();
    await at.idle();
    expect(at.last?.step).toBe(3);
  });

  it('keeps the last ones, and every so many-th for ever', async () => {
    const at = writer(undefined, { keep_every: 4 });
    for (let step = 1; step <= 11; step++) {
      const { snapshot, go } = copy(step);
      at.start(snapshot, info, times());
      go();
      await at.idle();
    }
    expect((await readdir(join(folder, 'checkpoints'))).sort()).toEqual(['step-10', 'step-11', 'step-4', 'step-8']);
  });

  it('is not there before the losses that led to it are', async () => {
    const text: string[] = [];
    const store = {
      async save(): Promise<StoredCheckpoint> {
        text.push(await readFile(log.path, 'utf8'));
        return { step: 1, path: 'x', bytes: 0 };
      },
      prune: async () => undefined,
    } as unknown as CheckpointStore;
    const at = writer(store);
    const { snapshot, go } = copy(1);
    const appended = log.append({ step: 1, loss: 2 });
    at.start(snapshot, info, times());
    go();
    await at.idle();
    await appended;
    expect(text).toEqual(['{"step":1,"loss":2}\n']);
  });
});

describe('the metrics log', () => {
  it('goes back to a step and on from there', async () => {
    for (const step of [1, 2, 3, 4]) await log.append({ step, loss: step / 8 });
    const before = log.sha256();
    await log.rewind(2);
    expect(log.losses).toEqual([1 / 8, 2 / 8]);
    for (const step of [3, 4]) await log.append({ step, loss: step / 8 });
    expect(log.sha256()).toBe(before);
    await log.flush();
    const lines = (await readFile(log.path, 'utf8')).trim().split('\n');
    expect(lines.map((line) => JSON.parse(line).step)).toEqual([1, 2, 3, 4]);
  });
});
