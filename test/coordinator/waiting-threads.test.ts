import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { WaitingThreads } from '../../src/coordinator/launch/index.ts';
import { workerEntryUrl } from '../../src/worker/index.ts';

const entry = workerEntryUrl();

/** Ends a thread that waits; its exit code. */
function endOf(worker: Worker): Promise<number> {
  const ended = new Promise<number>((resolve) => worker.once('exit', resolve));
  worker.postMessage(null);
  return ended;
}

describe('threads that wait for a job', () => {
  it('end when there is none', async () => {
    const waiting = new WaitingThreads(entry, 1);
    await waiting.end();
    expect(waiting.take(entry, 1)).toBeNull();
  });

  it('are not handed over for another number of ranks or another module', async () => {
    const waiting = new WaitingThreads(entry, 1);
    expect(waiting.take(entry, 2)).toBeNull();
    expect(waiting.take(new URL('other.js', entry), 1)).toBeNull();
    await waiting.end();
  });

  it('are not handed over once one has failed', async () => {
    const missing = new URL('missing.js', entry);
    const waiting = new WaitingThreads(missing, 1);
    await waiting.end();
    expect(waiting.take(missing, 1)).toBeNull();
  });

  it('are all handed over, also those whose turn to load had not come', async () => {
    const waiting = new WaitingThreads(entry, 3, 1);
    const taken = waiting.take(entry, 3) ?? [];
    expect(taken.map(({ threadId }) => threadId > 0)).toEqual([true, true, true]);
    await waiting.end();
    await Promise.all(taken.map(endOf));
  });

  it('load one after another where that is asked for', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'plexus-waiting-'));
    const file = join(folder, 'thread.mjs');
    const log = join(folder, 'log');
    const write = (what: string) => `appendFileSync(${JSON.stringify(log)}, '${what} ')`;
    writeFileSync(
      file,
      `import { appendFileSync } from 'node:fs';
      import { setTimeout } from 'node:timers/promises';
      import { parentPort } from 'node:worker_threads';
      ${write('begins')};
      parentPort.once('message', () => ${write('ends')});
      // Time enough for others to begin, if they were to.
      await setTimeout(20);
      ${write('loaded')};
      parentPort.postMessage({ type: 'loaded' });`,
    );
    const waiting = new WaitingThreads(pathToFileURL(file), 3, 1);
    const lines = () => readFileSync(log, 'utf8').trim().split(' ');
    await expect.poll(() => existsSync(log) && lines().length, { timeout: 10_000 }).toBe(6);
    await waiting.end();
    const [one, all] = [
      ['begins', 'loaded'],
      ['ends', 'ends', 'ends'],
    ];
    expect(lines()).toEqual([...one, ...one, ...one, ...all]);
    rmSync(folder, { recursive: true });
  });

  it('become more where more of the same are wanted, and stay as they are where others are', async () => {
    const waiting = new WaitingThreads(entry, 1);
    expect(waiting.grow(new URL('other.js', entry), 2)).toBe(false);
    expect(waiting.grow(entry, 2)).toBe(true);
    expect(waiting.grow(entry, 1)).toBe(false);
    const taken = waiting.take(entry, 2) ?? [];
    expect(taken).toHaveLength(2);
    expect(waiting.grow(entry, 3)).toBe(false);
    await Promise.all(taken.map(endOf));
  });

  it('are handed over once', async () => {
    const waiting = new WaitingThreads(entry, 1);
    const taken = waiting.take(entry, 1);
    expect(taken).toHaveLength(1);
    expect(waiting.take(entry, 1)).toBeNull();
    await waiting.end();
    const [worker] = taken ?? [];
    expect(await endOf(worker as Worker)).toBe(0);
  });
});
