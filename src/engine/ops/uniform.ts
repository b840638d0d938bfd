import type { Tensor } from '@tensorflow/tfjs-core';
import { type Shape, sizeOf } from '../../tensor/index.ts';
import { tf } from '../trace/index.ts';
import { eagerKernel, runKernel } from './kernel.ts';

// The hash. A tensor is seen as a matrix [rows, width] over its last axis. Each row and each column gets a 32-bit hash
// of (key, stream, its number), made by two rounds of a full mixer; an element's bits are the sum of its row's and its
// column's hash, mixed once more. So only the last, short mixer runs over every element:
//
//   seed     = mix(stream)                                          known when compiling
//   row[r]   = mix(mix(r * ROW_STEP ^ key[0]) + seed)               rows numbers
//   column[c]= mix(mix(c * COLUMN_STEP ^ key[1]) ^ seed)            width numbers
//   x = row[r] + column[c]
//   x = (x ^ x >>> 16) * MIX_A
//   x = (x ^ x >>> 15) * MIX_B
//   uniform  = (x >>> 8) / 2^24
//
// with mix(x): x ^= x >>> 16; x *= MIX_A; x ^= x >>> 15; x *= MIX_B; x ^= x >>> 16 (all modulo 2^32; the constants are
// those of C. Wellons' "lowbias32", the integer hash of least measured bias of that form). Products, sums and
// exclusive-ors wrap the same way on int32 and uint32, so an engine needs: int32 Mul and Add, BitwiseXor, a logical
// right shift of uint32, and casts between the two.

/** First multiplier of the mixer. */
export const MIX_A = 0x7feb352d;
/** Second multiplier of the mixer, as uint32. */
export const MIX_B = 0x846ca68b;
/** What row numbers are multiplied by, as uint32. */
export const ROW_STEP = 0x9e3779b1;
/** What column numbers are multiplied by, as uint32. */
export const COLUMN_STEP = 0x85ebca77;

/** The 32-bit mixer; its result is an int32. */
export function mix32(value: number): number {
  let x = value | 0;
  x = Math.imul(x ^ (x >>> 16), MIX_A);
  x = Math.imul(x ^ (x >>> 15), MIX_B);
  return x ^ (x >>> 16);
}

/** Rows and width of a shape as the hash sees it; a scalar is one row of width 1. */
export function uniformMatrix(shape: Shape): { readonly rows: number; readonly width: number } {
  const width = shape.length === 0 ? 1 : (shape[shape.length - 1] as number);
  return { rows: width === 0 ? 0 : sizeOf(shape) / width, width };
}

/** The reference implementation: uniform float32 numbers in [0, 1), row-major, with 24 bits of resolution. */
export function uniformReference(key: ArrayLike<number>, shape: Shape, stream: number): Float32Array {
  const { rows, width } = uniformMatrix(shape);
  const seed = mix32(stream);
  const column = Int32Array.from({ length: width }, (_, c) =>
    mix32(mix32(Math.imul(c, COLUMN_STEP) ^ (key[1] as number)) ^ seed),
  );
  const out = new Float32Array(rows * width);
  for (let r = 0; r < rows; r++) {
    const row = mix32((mix32(Math.imul(r, ROW_STEP) ^ (key[0] as number)) + seed) | 0);
    for (let c = 0; c < width; c++) {
      let x = (row + (column[c] as number)) | 0;
      x = Math.imul(x ^ (x >>> 16), MIX_A);
      x = Math.imul(x ^ (x >>> 15), MIX_B);
      out[r * width + c] = (x >>> 8) * 2 ** -24;
    }
  }
  return out;
}

eagerKernel('PlexusUniform', (inputs, attrs) => {
  const { shape, stream } = attrs as { shape: number[]; stream: number };
  return tf.tensor(uniformReference((inputs.key as Tensor).dataSync(), shape, stream), shape, 'float32');
});

/**
 * Uniform float32 numbers in [0, 1), a pure function of `key` (int32 `[2]`), `stream` (uint32) and `shape`: the same
 * bits on every engine. No gradient.
 */
export function uniform(key: Tensor, shape: Shape, stream: number): Tensor {
  return runKernel('PlexusUniform', { key }, { shape: [...shape], stream: stream >>> 0 });
}
