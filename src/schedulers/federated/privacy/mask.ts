import { createCipheriv, hkdfSync } from 'node:crypto';

/**
 * A stretch of pseudorandom ring elements: AES-256 in counter mode under a key that HKDF (RFC 5869) derives from the seed and what
 * the mask is for. Another purpose (round, tensor) gives an unrelated mask, so no two are ever the same.
 * @param purpose what tells this mask from all others made from the seed
 */
export function maskOf(seed: Uint8Array, purpose: string, length: number): Uint32Array {
  const material = new Uint8Array(hkdfSync('sha256', seed, new Uint8Array(0), `plexus mask ${purpose}`, 48));
  const cipher = createCipheriv('aes-256-ctr', material.subarray(0, 32), material.subarray(32));
  const stream = cipher.update(new Uint8Array(length * 4));
  cipher.final();
  // (A copy: what the cipher returns need not begin at a multiple of four.)
  return new Uint32Array(new Uint8Array(stream).buffer);
}

/** Adds a mask to a vector, or takes it away, modulo 2^32, in place. */
export function addMask(vector: Uint32Array, mask: Uint32Array, sign: 1 | -1): void {
  if (mask.length !== vector.length)
    throw new RangeError(`a mask of ${mask.length} numbers does not cover a vector of ${vector.length}`);
  if (sign === 1) for (let i = 0; i < vector.length; i++) vector[i] = (vector[i] as number) + (mask[i] as number);
  else for (let i = 0; i < vector.length; i++) vector[i] = (vector[i] as number) - (mask[i] as number);
}
