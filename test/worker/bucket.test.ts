import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bucketSize } from '../../src/worker/index.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

describe('bucketSize', () => {
  it('holds the rows, at least two, wastes little and never shrinks', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 100_000 }), (count) => {
        const size = bucketSize(count);
        expect(size).toBeGreaterThanOrEqual(Math.max(2, count));
        if (count > 64) expect(size / count).toBeLessThanOrEqual(1.125);
        else expect(size - count).toBeLessThanOrEqual(Math.max(1, count / 4 + 2));
        expect(bucketSize(count + 1)).toBeGreaterThanOrEqual(size);
        expect(bucketSize(size)).toBe(size);
      }),
    );
  });

  it('has few sizes', () => {
    const sizes = new Set(Array.from({ length: 1024 }, (_, i) => bucketSize(i + 1)));
    expect(sizes.size).toBeLessThan(60);
    expect([1, 2, 3, 5, 17, 64, 65, 129].map(bucketSize)).toEqual([2, 2, 4, 6, 20, 64, 72, 144]);
  });
});
