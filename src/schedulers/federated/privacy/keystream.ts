import { createCipheriv } from 'node:crypto';
import { discard } from './discard.ts';

/** Words that are made at a time: small enough that those of a client's masks stay in the cache until they are added. */
export const CHUNK = 16_384;
const ZEROS = new Uint8Array(4 * CHUNK);

/** Bytes of what a keystream is made from: a key of 16 and a first counter of 16. */
export const KEY_BYTES = 32;

/** Words in a block of the cipher. */
const BLOCK = 4;

/** The next words of a keystream, at most `CHUNK`: whoever is done with them gives them to `discard`. */
export type Keystream = (count: number) => Int32Array;

/**
 * Pseudorandom words: AES-128 in counter mode (NIST SP 800-38A), as strong as the X25519 agreement that keys come from.
 * @param material key and first counter, `KEY_BYTES` in all
 * @param from the word that it begins with, a multiple of four: words do not depend on where a stream begins
 */
export function keystream(material: Uint8Array, from = 0): Keystream {
  const [key, counter] = [material.subarray(0, 16), material.subarray(16, KEY_BYTES)];
  const stream = createCipheriv('aes-128-ctr', key, from === 0 ? counter : ahead(counter, from / BLOCK));
  return (count) => {
    const bytes = stream.update(ZEROS.subarray(0, 4 * count));
    // (What a cipher returns need not begin at a multiple of four.)
    const aligned = bytes.byteOffset % 4 === 0 ? bytes : Uint8Array.from(bytes);
    return new Int32Array(aligned.buffer, aligned.byteOffset, count);
  };
}

/** Calls `use` with `length` words of a stream, at most so many at a time; it must not keep them. */
export function eachPiece(
  stream: Keystream,
  length: number,
  most: number,
  use: (words: Int32Array, at: number) => void,
): void {
  for (let at = 0; at < length; at += most) {
    const words = stream(Math.min(most, length - at));
    use(words, at);
    discard(words);
  }
}

/** A counter of 16 bytes, so many blocks on, modulo 2^128. */
function ahead(counter: Uint8Array, blocks: number): Uint8Array {
  const result = Uint8Array.from(counter);
  let carry = blocks;
  for (let i = 15; i >= 0 && carry > 0; i--) {
    carry += result[i] as number;
    result[i] = carry % 256;
    carry = Math.floor(carry / 256);
  }
  return result;
}
