import type { Rng } from '../../../tensor/index.ts';
import { eachPiece, KEY_BYTES, type Keystream } from './keystream.ts';
import { ROUNDED, roundingKernel } from './quantise-kernel.ts';

/** How real numbers become elements of the ring of integers modulo 2^32 in which updates are added up. */
export interface QuantiseOptions {
  /** Values are cut to [-range, range]. */
  readonly range: number;
  /** Steps from -range to range. With n clients n * levels must stay below 2^32. */
  readonly levels: number;
  /** What values are multiplied by before, in float32. Default 1. */
  readonly share?: number;
}

/** What the keystream for `quantise` is made from, drawn from `rng`. */
export function roundingKey(rng: Rng): Uint8Array {
  return new Uint8Array(Uint32Array.from({ length: KEY_BYTES / 4 }, () => rng.uint32()).buffer);
}

/**
 * Rounds to one of two neighbouring levels at random so that the mean is kept (stochastic rounding). The chances are a keystream, which
 * is much quicker to have than numbers of a generator.
 * @param into takes the levels; may lie in the memory of `values`
 */
export function quantise(
  values: Float32Array,
  options: QuantiseOptions,
  chances: Keystream,
  into: Uint32Array = new Uint32Array(values.length),
): Uint32Array {
  const { range, levels, share = 1 } = options;
  const kernel = roundingKernel();
  eachPiece(chances, values.length, ROUNDED, (bits, at) => {
    const count = bits.length;
    kernel.values.set(values.subarray(at, at + count));
    kernel.bits.set(bits);
    // (What lies behind the end of a short chunk is rounded for nothing.)
    kernel.round(Math.ceil(count / 4) * 16, share, range, levels / (2 * range), levels);
    into.set(kernel.levels.subarray(0, count), at);
  });
  return into;
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
