import { type Cipher, createCipheriv, hkdfSync } from 'node:crypto';

/** Bytes of a mask that are made at a time: small enough to stay in the cache until they are added. */
const CHUNK = 32_768;
const ZEROS = new Uint8Array(CHUNK);

/**
 * A stretch of pseudorandom ring elements: AES-256 in counter mode under a key that HKDF (RFC 5869) derives from the seed and what
 * the mask is for. Another purpose (round, tensor) gives an unrelated mask, so no two are ever the same.
 * @param purpose what tells this mask from all others made from the seed
 */
export function maskOf(seed: Uint8Array, purpose: string, length: number): Uint32Array {
  const mask = new Uint32Array(length);
  addMask(mask, seed, purpose, 1);
  return mask;
}

/** Adds the mask of a seed and a purpose, as `maskOf` makes it, to a vector, or takes it away, modulo 2^32, in place. */
export function addMask(vector: Uint32Array, seed: Uint8Array, purpose: string, sign: 1 | -1): void {
  const material = new Uint8Array(hkdfSync('sha256', seed, new Uint8Array(0), `plexus mask ${purpose}`, 48));
  // As signed integers, with the same bits: unsigned ones beyond 2^31 are slow.
  const into = new Int32Array(vector.buffer, vector.byteOffset, vector.length);
  eachChunk(keystream(material), vector.length, (words, at) => {
    const mask = new Int32Array(words.buffer, words.byteOffset, words.length);
    if (sign === 1)
      for (let i = 0; i < mask.length; i++) into[at + i] = ((into[at + i] as number) + (mask[i] as number)) | 0;
    else for (let i = 0; i < mask.length; i++) into[at + i] = ((into[at + i] as number) - (mask[i] as number)) | 0;
  });
}

/** AES-256 in counter mode under a key of 32 bytes and a first counter of 16. */
export function keystream(material: Uint8Array): Cipher {
  return createCipheriv('aes-256-ctr', material.subarray(0, 32), material.subarray(32, 48));
}

/** Gives `length` words of a keystream, a chunk at a time. */
export function eachChunk(stream: Cipher, length: number, use: (words: Uint32Array, at: number) => void): void {
  for (let at = 0; at < length; at += CHUNK / 4) {
    const bytes = stream.update(ZEROS.subarray(0, Math.min(CHUNK, 4 * (length - at))));
    // (What a cipher returns need not begin at a multiple of four.)
    const aligned = bytes.byteOffset % 4 === 0 ? bytes : Uint8Array.from(bytes);
    use(new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4), at);
  }
  stream.final();
}
