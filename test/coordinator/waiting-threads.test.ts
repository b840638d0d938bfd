import { describe, expect, it } from 'vitest';
import { WaitingThreads } from '../../src/coordinator/launch/index.ts';
import { workerEntryUrl } from '../../src/worker/index.ts';

const entry = workerEntryUrl();

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

  it('are handed over once', async () => {
    const waiting = new WaitingThreads(entry, 1);
    const taken = waiting.take(entry, 1);
    expect(taken).toHaveLength(1);
    expect(waiting.take(entry, 1)).toBeNull();
    await waiting.end();
    const [worker] = taken ?? [];
    const ended = new Promise((resolve) => worker?.once('exit', resolve));
    worker?.postMessage(null);
    expect(await ended).toBe(0);
  });
});
