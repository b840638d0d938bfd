import { CommProtocolError } from '../errors.ts';

/** Elements that share a scale: 1.03 bits a value. */
export const SIGN_BLOCK = 1024;

/** Bytes of so many values as signs: a float32 for each block, then one bit a value. */
export function signBytes(elements: number): number {
  return 4 * Math.ceil(elements / SIGN_BLOCK) + Math.ceil(elements / 8);
}

/**
 * Writes the mean magnitude of each block of 1024 values, then the sign bits, lowest first: every value becomes plus or
 * minus that mean (Karimireddy, Rebjock, Stich and Jaggi, Error Feedback Fixes SignSGD, 2019, with a scale for each block).
 * What comes out of `fromSigns` goes through again with the same bits. A block that is not finite comes out as infinite, or
 * as NaN, altogether. `out` is aligned to 4 bytes and has `signBytes(values.length)` bytes.
 */
export function toSigns(values: Float32Array, out: Uint8Array): void {
  const { length } = values;
  const blocks = Math.ceil(length / SIGN_BLOCK);
  const scales = new Float32Array(out.buffer, out.byteOffset, blocks);
  for (let block = 0; block < blocks; block++) {
    const end = Math.min(length, (block + 1) * SIGN_BLOCK);
    let sum = 0;
    // (In double precision, where a block of equal magnitudes adds up exactly.)
    for (let i = block * SIGN_BLOCK; i < end; i++) sum += Math.abs(values[i] as number);
    scales[block] = sum / (end - block * SIGN_BLOCK);
  }
  const bits = new Int32Array(values.buffer, values.byteOffset, length);
  const start = 4 * blocks;
  for (let byte = 0, i = 0; i < length; byte++) {
    let packed = 0;
    for (let bit = 0; bit < 8 && i < length; bit++, i++) packed |= ((bits[i] as number) >>> 31) << bit;
    out[start + byte] = packed;
  }
}

/** Fills `out` from what `toSigns` wrote. @throws CommProtocolError if there are not as many bytes as that */
export function fromSigns(bytes: Uint8Array, out: Float32Array): void {
  if (bytes.length !== signBytes(out.length))
    throw new CommProtocolError(
      `${out.length} values take ${signBytes(out.length)} bytes as signs, but ${bytes.length} came`,
    );
  const blocks = Math.ceil(out.length / SIGN_BLOCK);
  const scales = new Float32Array(bytes.buffer, bytes.byteOffset, blocks);
  for (let i = 0; i < out.length; i++) {
    const scale = scales[Math.floor(i / SIGN_BLOCK)] as number;
    const negative = ((bytes[4 * blocks + (i >>> 3)] as number) >>> (i & 7)) & 1;
    out[i] = negative ? -scale : scale;
  }
}
