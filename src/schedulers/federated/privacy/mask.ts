import { type Cipher, createCipheriv, hkdfSync } from 'node:crypto';
import { addIntegers } from '../../../comm/index.ts';
import { discard } from './discard.ts';

/** Bytes of a mask that are made at a time: small enough that those of a client's masks stay in the cache until they are added. */
const CHUNK = 65_536;
const ZEROS = new Uint8Array(CHUNK);

/** A mask to add to a vector (`sign` 1) or to take away. */
export interface Mask {
  readonly seed: Uint8Array;
  /** What tells this mask from all others made from the seed. */
  readonly purpose: string;
  readonly sign: 1 | -1;
}

/**
 * A stretch of pseudorandom ring elements: AES-256 in counter mode under a key that HKDF (RFC 5869) derives from the seed and what
 * the mask is for. Another purpose (round, tensor) gives an unrelated mask, so no two are ever the same.
 * @param purpose what tells this mask from all others made from the seed
 */
export function maskOf(seed: Uint8Array, purpose: string, length: number): Uint32Array {
  const mask = new Uint32Array(length);
  addMasks(mask, [{ seed, purpose, sign: 1 }]);
  return mask;
}

/** Adds masks, as `maskOf` makes them, to a vector, or takes them away, modulo 2^32, in place. */
export function addMasks(vector: Uint32Array, masks: readonly Mask[]): void {
  const streams = (of: 1 | -1) => masks.filter(({ sign }) => sign === of).map(maskStream);
  const [plus, minus] = [streams(1), streams(-1)];
  // As signed integers, with the same bits.
  const whole = new Int32Array(vector.buffer, vector.byteOffset, vector.length);
  for (let at = 0; at < vector.length; at += CHUNK / 4) {
    const part = whole.subarray(at, at + CHUNK / 4);
    const next = (stream: Cipher) => nextWords(stream, part.length);
    const [more, less] = [plus.map(next), minus.map(next)];
    addIntegers(part, more, less);
    for (const words of [...more, ...less]) discard(words);
  }
}

function maskStream({ seed, purpose }: Mask): Cipher {
  return keystream(new Uint8Array(hkdfSync('sha256', seed, new Uint8Array(0), `plexus mask ${purpose}`, 48)));
}

/** AES-256 in counter mode under a key of 32 bytes and a first counter of 16. */
function keystream(material: Uint8Array): Cipher {
  return createCipheriv('aes-256-ctr', material.subarray(0, 32), material.subarray(32, 48));
}

function nextWords(stream: Cipher, count: number): Int32Array {
  const bytes = stream.update(ZEROS.subarray(0, 4 * count));
  // (What a cipher returns need not begin at a multiple of four.)
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : Uint8Array.from(bytes);
  return new Int32Array(aligned.buffer, aligned.byteOffset, count);
}

/** Gives `length` words of the keystream of 48 bytes of key material, so many at a time; `use` must not keep them. */
export function eachChunk(
  material: Uint8Array,
  length: number,
  most: number,
  use: (words: Int32Array, at: number) => void,
): void {
  const stream = keystream(material);
  for (let at = 0; at < length; at += most) {
    const words = nextWords(stream, Math.min(most, length - at));
    use(words, at);
    discard(words);
  }
}
