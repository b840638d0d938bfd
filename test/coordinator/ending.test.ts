import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { Ending } from '../../src/coordinator/ending.ts';

describe('an ending', () => {
  it('lets results through, and ends every wait, also one that begins later', async () => {
    const ending = new Ending();
    expect(await ending.before(Promise.resolve(1))).toBe(1);
    await expect(ending.before(Promise.reject(new Error('its own')))).rejects.toThrow('its own');
    const waits = [ending.before(new Promise(() => undefined)), ending.wait()];
    ending.end(new Error('over'));
    ending.end(new Error('again'));
    for (const wait of waits) await expect(wait).rejects.toThrow('over');
    await expect(ending.wait()).rejects.toThrow('over');
  });

  it('lets through what is there already, even at the end', async () => {
    const ending = new Ending();
    ending.end(new Error('over'));
    expect(await ending.before(Promise.resolve(1))).toBe(1);
  });

  it('keeps no result of those who have waited', async () => {
    setFlagsFromString('--expose-gc');
    const gc = runInNewContext('gc') as () => void;
    const ending = new Ending();
    const seen: WeakRef<object>[] = [];
    for (let i = 0; i < 20; i++) seen.push(new WeakRef(await ending.before(Promise.resolve({ i }))));
    // (A WeakRef holds on to its target until the turn ends.)
    await new Promise((resolve) => setImmediate(resolve));
    gc();
    expect(seen.filter((ref) => ref.deref() !== undefined).length).toBeLessThan(3);
    expect(await ending.before(Promise.resolve(2))).toBe(2);
  });
});
