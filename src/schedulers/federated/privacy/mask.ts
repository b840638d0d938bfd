import { hkdfSync } from 'node:crypto';
import { addIntegers } from '../../../comm/index.ts';
import { discard } from './discard.ts';
import { CHUNK, KEY_BYTES, keystream } from './keystream.ts';

/** A mask to add to a vector (`sign` 1) or to take away. */
export interface Mask {
  /** What its words are made from, as `maskKey` derives it. */
  readonly key: Uint8Array;
  readonly sign: 1 | -1;
}

/**
 * What a mask is made from: HKDF (RFC 5869) of the seed and what the mask is for. Another purpose (round, pair of clients) gives an
 * unrelated mask, so no two are ever the same.
 * @param purpose what tells this mask from all others made from the seed
 */
export function maskKey(seed: Uint8Array, purpose: string): Uint8Array {
  return new Uint8Array(hkdfSync('sha256', seed, new Uint8Array(0), `plexus mask ${purpose}`, KEY_BYTES));
}

/** The ring elements that a mask is. */
export function maskOf(key: Uint8Array, length: number): Uint32Array {
  const mask = new Uint32Array(length);
  addMasks(mask, [{ key, sign: 1 }]);
  return mask;
}

/** Adds masks, as `maskOf` makes them, to a vector, or takes them away, modulo 2^32, in place. */
export function addMasks(vector: Uint32Array, masks: readonly Mask[]): void {
  const streams = (of: 1 | -1) => masks.filter(({ sign }) => sign === of).map(({ key }) => keystream(key));
  const [plus, minus] = [streams(1), streams(-1)];
  const whole = asSigned(vector);
  for (let at = 0; at < vector.length; at += CHUNK) {
    const part = whole.subarray(at, at + CHUNK);
    const [more, less] = [plus.map((next) => next(part.length)), minus.map((next) => next(part.length))];
    addIntegers(part, more, less);
    for (const words of [...more, ...less]) discard(words);
  }
}

/** The same bits as signed integers, which add up to the same. */
export function asSigned({ buffer, byteOffset, length }: Uint32Array): Int32Array {
  return new Int32Array(buffer, byteOffset, length);
}
