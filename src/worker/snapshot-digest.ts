import { createHash } from 'node:crypto';

/** Hex digits of a digest: enough to tell tensors apart, not to keep anyone from forging one. */
const DIGITS = 16;

/**
 * Digests of tensors, by which ranks that should hold the same can be compared without moving what they hold: the first 64 bits of
 * SHA-256 of each tensor's bits.
 */
export function digestsOf(tensors: readonly Float32Array[]): string[] {
  return tensors.map((tensor) => {
    const bytes = new Uint8Array(tensor.buffer, tensor.byteOffset, tensor.byteLength);
    return createHash('sha256').update(bytes).digest('hex').slice(0, DIGITS);
  });
}
