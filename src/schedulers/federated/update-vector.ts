import { wasm } from '../../tensor/index.ts';

const { constant, F32, F64, get, I32, load, set, simd, store, tee, V128, wasmInstance } = wasm;

/**
 * Arithmetic of updates: whole vectors of a model, in place. Loops of their own, over locals: inside of a method that awaits they took
 * five times as long.
 */

/** `values[i] *= factor`. */
export function scaleBy(values: Float32Array, factor: number): void {
  for (let i = 0; i < values.length; i++) values[i] = (values[i] as number) * factor;
}

/** Euclidean norm, in double precision. */
export function normOf(values: Float32Array): number {
  let squares = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    squares += value * value;
  }
  return Math.sqrt(squares);
}

/** Elements of a block: with the other operand's it lies in a fast cache. */
const BLOCK = 4096;

/** `(bytes, factor)`: the first block less the second, whose squares are summed up, times the factor. */
type ChangeBlock = (bytes: number, factor: number) => number;

/** Two blocks, and what makes the change out of them. */
interface ChangeKernel {
  readonly ends: Float32Array;
  readonly starts: Float32Array;
  readonly change: ChangeBlock;
}

let kernel: ChangeKernel | null = null;

/**
 * Makes what parameters have become, `values`, how they changed: `(values[i] - start[i]) * factor`, in place and in float32, with the
 * norm of the difference, in double precision. One pass: a loop in JavaScript takes 1.5 ns for each element of each of these, this 0.5 ns
 * in all.
 * @param factor a float32
 * @returns the Euclidean norm before the factor
 */
export function changeSince(start: Float32Array, values: Float32Array, factor = 1): number {
  kernel ??= changeKernel();
  const { ends, starts, change } = kernel;
  let squares = 0;
  for (let at = 0; at < values.length; at += BLOCK) {
    const end = Math.min(at + BLOCK, values.length);
    const count = end - at;
    const part = values.subarray(at, end);
    ends.set(part);
    starts.set(start.subarray(at, end));
    const padded = Math.ceil(count / 4) * 4;
    ends.fill(0, count, padded);
    starts.fill(0, count, padded);
    squares += change(4 * padded, factor);
    part.set(ends.subarray(0, count));
  }
  return Math.sqrt(squares);
}

function changeKernel(): ChangeKernel {
  const [bytes, factor, at, factors, difference, wide, low, high] = [0, 1, 2, 3, 4, 5, 6, 7];
  const [sub, mul, splat, promote, mul64, add64, shuffle, lane] = [0xe5, 0xe6, 0x13, 0x5f, 0xf2, 0xf0, 0x0d, 0x21];
  const upper = [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7];
  // Adds the squares of two numbers on the stack, as doubles, to a local.
  const addSquares = (sum: number) => [
    ...[...simd(promote), ...tee(wide), ...get(wide), ...simd(mul64)],
    ...[...get(sum), ...simd(add64), ...set(sum)],
  ];
  const body = [
    ...[...get(factor), ...simd(splat), ...set(factors)],
    ...[0x03, 0x40],
    ...[...get(at), ...load(0), ...get(at), ...load(4 * BLOCK), ...simd(sub), ...tee(difference)],
    ...addSquares(low),
    ...[...get(difference), ...get(difference), ...simd(shuffle, ...upper), ...addSquares(high)],
    ...[...get(at), ...get(difference), ...get(factors), ...simd(mul), ...store(0)],
    ...[...get(at), ...constant(16), 0x6a, ...tee(at), ...get(bytes), 0x49, 0x0d, 0, 0x0b], // while at < bytes
    ...[...get(low), ...get(high), ...simd(add64), ...tee(wide), ...simd(lane, 0)],
    ...[...get(wide), ...simd(lane, 1), 0xa0],
  ];
  const locals = [I32, V128, V128, V128, V128, V128];
  const made = wasmInstance<{ readonly change: ChangeBlock }>(65_536, [
    { name: 'change', params: [I32, F32], results: [F64], locals, body },
  ]);
  const buffer = made?.memory.buffer ?? new ArrayBuffer(8 * BLOCK);
  const ends = new Float32Array(buffer, 0, BLOCK);
  const starts = new Float32Array(buffer, 4 * BLOCK, BLOCK);
  return { ends, starts, change: made?.change ?? plainChange(ends, starts) };
}

/** The kernel where there is no WebAssembly, with its order of additions. */
export function plainChange(ends: Float32Array, starts: Float32Array): ChangeBlock {
  return (bytes, factor) => {
    const sums = [0, 0, 0, 0];
    for (let i = 0; i < bytes / 4; i++) {
      const difference = Math.fround((ends[i] as number) - (starts[i] as number));
      sums[i % 4] = (sums[i % 4] as number) + difference * difference;
      ends[i] = difference * factor;
    }
    const [a, b, c, d] = sums as [number, number, number, number];
    return a + c + (b + d);
  };
}
