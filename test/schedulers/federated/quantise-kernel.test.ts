import { describe, expect, test } from 'vitest';
import {
  plainRounding,
  ROUNDED,
  type RoundingKernel,
  roundingKernel,
} from '../../../src/schedulers/federated/privacy/quantise-kernel.ts';
import { createRng } from '../../../src/tensor/index.ts';

const EDGES = [0, -0, 8, -8, 7.9999995, -7.9999995, 8.000001, 1e30, -1e30, Infinity, -Infinity, NaN, 1e-40, -1e-40];

function rounded(kernel: RoundingKernel, most: number, share: number, bytes: number): number[] {
  const rng = createRng(`${most} ${share}`);
  rng.fillNormal(kernel.values, 0, 3);
  kernel.values.set(EDGES);
  kernel.bits.forEach((_, i) => {
    kernel.bits[i] = i % 3 === 0 ? -1 : rng.uint32();
  });
  kernel.round(bytes, share, 8, most / 16, most);
  return [...kernel.levels];
}

describe('rounding to levels', () => {
  test.each([
    [2 ** 24, 1],
    [2 ** 24, 600 / 700],
    [Math.floor((2 ** 32 - 1) / 2), 1 / 3],
    [1, 0.1],
  ])('%i levels, a share of %f: the bits of the loop in JavaScript', (most, share) => {
    const [fast, plain] = [roundingKernel(), plainRounding()].map((kernel) =>
      rounded(kernel, most, share, 4 * ROUNDED),
    );
    expect(fast).toEqual(plain);
    expect(fast?.every((level) => level <= most)).toBe(true);
    expect(new Set(fast).size).toBeGreaterThan(1);
  });

  test('what lies behind is left as it is', () => {
    const [fast, plain] = [roundingKernel(), plainRounding()].map((kernel) => rounded(kernel, 1000, 1, 48));
    expect(fast).toEqual(plain);
  });
});
