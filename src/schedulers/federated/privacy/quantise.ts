import type { Rng } from '../../../tensor/index.ts';
import { eachChunk, keystream } from './mask.ts';

/** How real numbers become elements of the ring of integers modulo 2^32 in which updates are added up. */
export interface QuantiseOptions {
  /** Values are cut to [-range, range]. */
  readonly range: number;
  /** Steps from -range to range. With n clients n * levels must stay below 2^32. */
  readonly levels: number;
}

/**
 * Rounds to one of two neighbouring levels at random so that the mean is kept (stochastic rounding). The chances are a keystream under
 * a key that `rng` draws, which is much quicker to have than numbers of `rng` itself.
 */
export function quantise(values: Float32Array, { range, levels }: QuantiseOptions, rng: Rng): Uint32Array {
  const scale = levels / (2 * range);
  const result = new Uint32Array(values.length);
  const material = Uint32Array.from({ length: 12 }, () => rng.uint32());
  eachChunk(keystream(new Uint8Array(material.buffer)), values.length, (words, at) => {
    const bits = new Int32Array(words.buffer, words.byteOffset, words.length);
    for (let i = 0; i < bits.length; i++) {
      const exact = ((values[at + i] as number) + range) * scale;
      const cut = exact < 0 ? 0 : exact > levels ? levels : exact;
      const level = Math.floor(cut + ((bits[i] as number) >>> 8) * 2 ** -24);
      result[at + i] = level > levels ? levels : level;
    }
  });
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
