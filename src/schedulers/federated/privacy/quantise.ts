import type { Rng } from '../../../tensor/index.ts';

/** How real numbers become elements of the ring of integers modulo 2^32 in which updates are added up. */
export interface QuantiseOptions {
  /** Values are cut to [-range, range]. */
  readonly range: number;
  /** Steps from -range to range. With n clients n * levels must stay below 2^32. */
  readonly levels: number;
}

/** Rounds to one of two neighbouring levels at random so that the mean is kept (stochastic rounding). */
export function quantise(values: Float32Array, { range, levels }: QuantiseOptions, rng: Rng): Uint32Array {
  const scale = levels / (2 * range);
  const result = new Uint32Array(values.length);
  const chances = rng.fillUniform(new Float32Array(values.length));
  for (let i = 0; i < values.length; i++) {
    const value = Math.min(range, Math.max(-range, values[i] as number));
    const exact = (value + range) * scale;
    const low = Math.floor(exact);
    result[i] = Math.min(levels, low + ((chances[i] as number) < exact - low ? 1 : 0));
  }
  return result;
}

/** The sum of `count` quantised vectors, back as real numbers. */
export function dequantiseSum(sum: Uint32Array, count: number, { range, levels }: QuantiseOptions): Float32Array {
  const scale = (2 * range) / levels;
  const result = new Float32Array(sum.length);
  for (let i = 0; i < sum.length; i++) result[i] = (sum[i] as number) * scale - count * range;
  return result;
}

/** The largest number of levels with which `count` vectors can be added without wrapping around, at most 2^24. */
export function levelsFor(count: number): number {
  return Math.min(2 ** 24, Math.floor((2 ** 32 - 1) / Math.max(1, count)));
}
