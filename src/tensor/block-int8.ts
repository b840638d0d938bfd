/** Elements that share a scale. */
export const INT8_BLOCK = 256;

/** Adding and subtracting this rounds a double below 2^51 to the nearest integer, ties to even. */
const ROUNDER = 1.5 * 2 ** 52;

/** Stands for NaN in a block that is not finite; the values of a finite one are -127 .. 127. */
const NAN_CODE = -128;

/** Blocks of so many elements. */
export function int8Blocks(elements: number): number {
  return Math.ceil(elements / INT8_BLOCK);
}

/**
 * Blockwise 8-bit quantisation: each block of 256 values is stored as its largest magnitude `a` (float32) and the
 * integers nearest to `127 x / a`, ties to even (as in Dettmers et al. 2022, "8-bit optimizers via block-wise
 * quantization", with a linear code). The error of a value is at most a/254, and half a unit in the last place of float32.
 *
 * A block that holds NaN or an infinity keeps those; its other values become 0, since there is no scale for them.
 * The same bits in every runtime. Quantising what `fromBlockInt8` returned gives the same values again.
 * @param codes as many as values @param largest as many as `int8Blocks(values.length)`
 */
export function toBlockInt8(values: Float32Array, codes: Int8Array, largest: Float32Array): void {
  const { length } = values;
  if (codes.length !== length || largest.length !== int8Blocks(length))
    throw new RangeError(
      `${length} values take ${length} codes and ${int8Blocks(length)} scales, not ${codes.length} and ${largest.length}`,
    );
  const bits = new Int32Array(values.buffer, values.byteOffset, length);
  const largestBits = new Int32Array(largest.buffer, largest.byteOffset, largest.length);
  for (let block = 0, start = 0; start < length; block++, start += INT8_BLOCK) {
    const end = Math.min(start + INT8_BLOCK, length);
    // Magnitudes compare like their bit patterns, and what is not finite is above everything that is.
    let top = 0;
    for (let i = start; i < end; i++) {
      const magnitude = (bits[i] as number) & 0x7fffffff;
      top = Math.max(magnitude, top);
    }
    largestBits[block] = top;
    if (top >= 0x7f800000) notFinite(values, codes, start, end);
    else {
      const a = largest[block] as number;
      const scale = a === 0 ? 0 : 127 / a;
      for (let i = start; i < end; i++) codes[i] = (values[i] as number) * scale + ROUNDER - ROUNDER;
    }
  }
}

/** The values of `toBlockInt8`. */
export function fromBlockInt8(
  codes: Int8Array,
  largest: Float32Array,
  out: Float32Array = new Float32Array(codes.length),
): Float32Array {
  const { length } = codes;
  if (largest.length !== int8Blocks(length))
    throw new RangeError(`${length} codes take ${int8Blocks(length)} scales, not ${largest.length}`);
  for (let block = 0, start = 0; start < length; block++, start += INT8_BLOCK) {
    const end = Math.min(start + INT8_BLOCK, length);
    const a = largest[block] as number;
    if (!Number.isFinite(a))
      for (let i = start; i < end; i++) {
        const code = codes[i] as number;
        out[i] = code === NAN_CODE ? Number.NaN : code === 0 ? 0 : code * Number.POSITIVE_INFINITY;
      }
    else {
      // In double precision, so that 127 steps are exactly `a`.
      const step = a / 127;
      for (let i = start; i < end; i++) out[i] = (codes[i] as number) * step;
    }
  }
  return out;
}

function notFinite(values: Float32Array, codes: Int8Array, start: number, end: number): void {
  for (let i = start; i < end; i++) {
    const value = values[i] as number;
    codes[i] = Number.isNaN(value) ? NAN_CODE : Number.isFinite(value) ? 0 : value > 0 ? 127 : -127;
  }
}
