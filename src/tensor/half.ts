/**
 * Conversions between float32 and the two 16-bit formats, kept as raw bit patterns in a Uint16Array. Rounding is to
 * nearest, ties to even (IEEE 754); NaN stays NaN, infinities stay, float16 overflows to infinity from 65520 on, and
 * subnormals are kept.
 */

/** The bit patterns of float32 values, in the same memory. */
function bitsOf(values: Float32Array): Int32Array {
  return new Int32Array(values.buffer, values.byteOffset, values.length);
}

/** Float32 values as bfloat16 bit patterns (the upper half of the float32). */
export function toBfloat16(values: Float32Array, out: Uint16Array = new Uint16Array(values.length)): Uint16Array {
  const bits = bitsOf(values);
  for (let i = 0; i < bits.length; i++) {
    const b = bits[i] as number;
    // NaN: rounding could carry into infinity, or cut the payload down to it.
    out[i] = (b & 0x7fffffff) > 0x7f800000 ? (b >>> 16) | 0x40 : (b + 0x7fff + ((b >>> 16) & 1)) >>> 16;
  }
  return out;
}

/** Bfloat16 bit patterns as float32 values; exact. */
export function fromBfloat16(
  patterns: Uint16Array,
  out: Float32Array = new Float32Array(patterns.length),
): Float32Array {
  const bits = bitsOf(out);
  for (let i = 0; i < patterns.length; i++) bits[i] = (patterns[i] as number) << 16;
  return out;
}

/**
 * By the exponent of a float32: what its mantissa (with the hidden bit, where the result is subnormal) is shifted by,
 * what is added first to round, and what is added afterwards. So that no branch depends on the values (after van der
 * Zijp, "Fast half float conversions", 2008, with rounding to nearest even).
 */
const SHIFT = new Uint8Array(256);
const HIDDEN = new Uint32Array(256);
const ROUND = new Uint32Array(256);
const BASE = new Uint16Array(256);
for (let e = 0; e < 256; e++) {
  if (e < 102)
    SHIFT[e] = 31; // below half of the smallest subnormal: zero
  else if (e < 113) {
    SHIFT[e] = 126 - e;
    HIDDEN[e] = 0x800000;
    ROUND[e] = 2 ** (125 - e) - 1;
  } else if (e < 143) {
    SHIFT[e] = 13;
    ROUND[e] = 0xfff;
    BASE[e] = (e - 112) << 10;
  } else {
    SHIFT[e] = 31;
    BASE[e] = 0x7c00;
  }
}

/** Float32 values as IEEE binary16 bit patterns. */
export function toFloat16(values: Float32Array, out: Uint16Array = new Uint16Array(values.length)): Uint16Array {
  const bits = bitsOf(values);
  for (let i = 0; i < bits.length; i++) {
    const b = bits[i] as number;
    const e = (b >>> 23) & 255;
    const shift = SHIFT[e] as number;
    const mantissa = (b & 0x7fffff) | (HIDDEN[e] as number);
    const rounded = (mantissa + (ROUND[e] as number) + ((mantissa >>> shift) & 1)) >>> shift;
    const nan = e === 255 && mantissa !== 0 ? 0x200 : 0;
    out[i] = ((b >>> 16) & 0x8000) | ((BASE[e] as number) + rounded) | nan;
  }
  return out;
}

/** Float32 values of all binary16 patterns (256 KB), made when first needed. */
let halves: Float32Array | null = null;

function halfTable(): Float32Array {
  if (halves) return halves;
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >>> 10) & 31;
    const mantissa = bits & 0x3ff;
    if (exponent === 31) table[bits] = mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    else if (exponent === 0) table[bits] = sign * mantissa * 2 ** -24;
    else table[bits] = sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
  }
  halves = table;
  return table;
}

/** IEEE binary16 bit patterns as float32 values; exact. */
export function fromFloat16(
  patterns: Uint16Array,
  out: Float32Array = new Float32Array(patterns.length),
): Float32Array {
  const table = halfTable();
  for (let i = 0; i < patterns.length; i++) out[i] = table[patterns[i] as number] as number;
  return out;
}
