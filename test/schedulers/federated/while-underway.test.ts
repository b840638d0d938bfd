import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Underway } from '../../../src/coordinator/index.ts';
import { whileUnderway } from '../../../src/schedulers/federated/while-underway.ts';

describe('work under way', () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it('is looked at every two seconds, and leaves no timer', async () => {
    let end: () => void = () => undefined;
    const work = new Promise<void>((resolve) => {
      end = resolve;
    });
    let done = 0;
    const seen: Underway[] = [];
    const watching = (async () => {
      for await (const found of whileUnderway(work, () => (done === 2 ? null : { done, of: 4 }))) seen.push(found);
    })();
    await vi.advanceTimersByTimeAsync(2_000);
    done = 1;
    await vi.advanceTimersByTimeAsync(2_500);
    done = 2;
    await vi.advanceTimersByTimeAsync(2_000);
    end();
    await watching;
    expect(seen).toEqual([
      { done: 0, of: 4 },
      { done: 1, of: 4 },
    ]);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('that fails, or is over soon, ends the watch without a word', async () => {
    for (const work of [Promise.reject(new Error('no')), Promise.resolve(1)]) {
      work.catch(() => undefined);
      for await (const _ of whileUnderway(work, () => ({ done: 0, of: 1 }))) expect.unreachable();
    }
    expect(vi.getTimerCount()).toBe(0);
  });
});
