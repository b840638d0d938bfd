/**
 * Conversions between float32 and the two 16-bit formats, kept as raw bit patterns in a Uint16Array. Rounding is to
 * nearest, ties to even (IEEE 754); NaN stays NaN, infinities stay, float16 overflows to infinity from 65520 on, and
 * subnormals are kept.
 */

const BLOCK = 4096;
const scratch = new Float32Array(BLOCK);
const scratchBits = new Uint32Array(scratch.buffer);

/** Calls `each` with float32 bit patterns of `values`, in order, whatever its alignment. */
function mapBits(values: Float32Array, out: Uint16Array, each: (bits: number) => number): Uint16Array {
  for (let from = 0; from < values.length; from += BLOCK) {
    const part = values.subarray(from, from + BLOCK);
    scratch.set(part);
    for (let i = 0; i < part.length; i++) out[from + i] = each(scratchBits[i] as number);
  }
  return out;
}

/** Float32 values as bfloat16 bit patterns (the upper half of the float32). */
export function toBfloat16(values: Float32Array, out = new Uint16Array(values.length)): Uint16Array {
  return mapBits(values, out, (bits) => {
    if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40; // NaN: rounding could carry into infinity
    return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
  });
}

/** Bfloat16 bit patterns as float32 values; exact. */
export function fromBfloat16(patterns: Uint16Array, out = new Float32Array(patterns.length)): Float32Array {
  for (let from = 0; from < patterns.length; from += BLOCK) {
    const n = Math.min(BLOCK, patterns.length - from);
    for (let i = 0; i < n; i++) scratchBits[i] = (patterns[from + i] as number) << 16;
    out.set(scratch.subarray(0, n), from);
  }
  return out;
}

/** Float32 values as IEEE binary16 bit patterns. */
export function toFloat16(values: Float32Array, out = new Uint16Array(values.length)): Uint16Array {
  return mapBits(values, out, (bits) => {
    const sign = (bits >>> 16) & 0x8000;
    const magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7e00;
    if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and more round to infinity
    if (magnitude >= 0x38800000) {
      // Normal: rebias the exponent (127 -> 15) and round the 13 bits that go.
      return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
    }
    if (magnitude <= 0x33000000) return sign; // up to half of the smallest subnormal, 2^-25: a tie goes to even, zero
    // Subnormal: units of 2^-24.
    const exponent = magnitude >>> 23;
    const mantissa = (magnitude & 0x7fffff) | 0x800000;
    const shift = 126 - exponent;
    const quotient = mantissa >>> shift;
    const rest = mantissa & ((1 << shift) - 1);
    const half = 1 << (shift - 1);
    return sign | (quotient + (rest > half || (rest === half && (quotient & 1) === 1) ? 1 : 0));
  });
}

/** IEEE binary16 bit patterns as float32 values; exact. */
export function fromFloat16(patterns: Uint16Array, out = new Float32Array(patterns.length)): Float32Array {
  for (let i = 0; i < patterns.length; i++) {
    const bits = patterns[i] as number;
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >>> 10) & 31;
    const mantissa = bits & 0x3ff;
    if (exponent === 31) out[i] = mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    else if (exponent === 0) out[i] = sign * mantissa * 2 ** -24;
    else out[i] = sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
  }
  return out;
}
