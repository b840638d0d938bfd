import { wasm } from '../tensor/index.ts';
import { type Kernels, kernelsFor, plainKernels, wasmMemory } from './sum-kernel.ts';

/** Bytes of a block: what lies in a fast cache while it is copied in, added and copied out. */
const BLOCK_BYTES = 32_768;
const BLOCK = BLOCK_BYTES / Float32Array.BYTES_PER_ELEMENT;

/** Blocks on the stack. The canonical tree over 2^30 leaves needs 31. */
const DEPTH = 32;

/** Stands for an addition in a `Postfix`. */
export const ADD = -1;

/**
 * A sum of arrays in a fixed order, in postfix form: a number from 0 on pushes the operand of that number, `ADD` replaces
 * the two on top (left below right) by their sum. One value remains.
 */
export type Postfix = readonly number[];

/**
 * Sums arrays at the speed of memory: a JavaScript loop adds 2 GB/s, SIMD in WebAssembly 30, but only in its own
 * memory. So operands are copied in block by block, which the caches hold (measured: 7-9 GB/s in all).
 * Each addition of numbers is rounded to float32, in the order that is asked for.
 */
class Adder {
  readonly #memory: Float32Array;
  readonly #integers: Int32Array;
  readonly #kernels: Kernels;

  constructor() {
    const memory = wasmMemory((BLOCK_BYTES * DEPTH) / wasm.PAGE_BYTES, false);
    this.#memory = memory ? new Float32Array(memory.buffer) : new Float32Array(BLOCK * DEPTH);
    this.#kernels = memory ? kernelsFor(memory) : plainKernels(this.#memory);
    this.#integers = new Int32Array(this.#memory.buffer);
  }

  sum(outs: readonly Float32Array[], operands: readonly Float32Array[], order: Postfix, length: number): void {
    const memory = this.#memory;
    for (let start = 0; start < length; start += BLOCK) {
      const end = Math.min(start + BLOCK, length);
      const whole = length <= BLOCK;
      // (What lies behind the end of a short block is added up for nothing.)
      const bytes = Math.ceil((end - start) / 16) * 64;
      let top = 0;
      for (const item of order)
        if (item === ADD) {
          top -= 1;
          const left = (top - 1) * BLOCK_BYTES;
          this.#kernels.add(left, left, top * BLOCK_BYTES, bytes);
        } else {
          const operand = operands[item] as Float32Array;
          memory.set(whole ? operand : operand.subarray(start, end), top * BLOCK);
          top += 1;
        }
      const sum = memory.subarray(0, end - start);
      for (const out of outs) out.set(sum, start);
    }
  }

  addIntegers(out: Int32Array, plus: readonly Int32Array[], minus: readonly Int32Array[]): void {
    const { addIntegers, subtractIntegers } = this.#kernels;
    for (let start = 0; start < out.length; start += BLOCK) {
      const end = Math.min(start + BLOCK, out.length);
      const bytes = Math.ceil((end - start) / 16) * 64;
      const into = out.subarray(start, end);
      this.#integers.set(into);
      for (const [operands, apply] of [
        [plus, addIntegers],
        [minus, subtractIntegers],
      ] as const)
        for (const operand of operands) {
          this.#integers.set(operand.subarray(start, end), BLOCK);
          apply(0, 0, BLOCK_BYTES, bytes);
        }
      into.set(this.#integers.subarray(0, end - start));
    }
  }
}

let adder: Adder | null = null;

/**
 * Sums operands of one length in the given order and writes the sum to all `outs`, which may be operands themselves.
 * Operands that the order does not name may be missing.
 * @throws RangeError if lengths differ, or the order is no sum or needs more than 32 values at once
 */
export function sumArrays(outs: readonly Float32Array[], operands: readonly Float32Array[], order: Postfix): void {
  const length = outs[0]?.length ?? 0;
  const fits = (array: Float32Array | undefined): void => {
    if (array?.length !== length)
      throw new RangeError(`a sum of ${length} elements was given an array of ${array?.length ?? 'no'} elements`);
  };
  let top = 0;
  for (const item of order) {
    top += item === ADD ? -1 : 1;
    if (item !== ADD) fits(operands[item]);
    if (top < 1 || top > DEPTH)
      throw new RangeError(`the order ${order.join(' ')} is no sum of at most ${DEPTH} at once`);
  }
  if (top !== 1) throw new RangeError(`the order ${order.join(' ')} leaves ${top} values, not one`);
  outs.forEach(fits);
  if (order.length === 1) {
    for (const out of outs) copyUnlessSame(out, operands[order[0] as number] as Float32Array);
    return;
  }
  adder ??= new Adder();
  adder.sum(outs, operands, order, length);
}

function copyUnlessSame(out: Float32Array, from: Float32Array): void {
  if (out.buffer !== from.buffer || out.byteOffset !== from.byteOffset) out.set(from);
}

const LEFT_AND_RIGHT: Postfix = [0, 1, ADD];

/** `out = left + right` in float32; `out` may be either argument. @throws RangeError if lengths differ */
export function addArrays(out: Float32Array, left: Float32Array, right: Float32Array): void {
  sumArrays([out], [left, right], LEFT_AND_RIGHT);
}

/**
 * Adds arrays of integers to `out` and takes others away from it, modulo 2^32, which is the same for signed and unsigned ones.
 * @throws RangeError if lengths differ
 */
export function addIntegers(out: Int32Array, plus: readonly Int32Array[], minus: readonly Int32Array[]): void {
  for (const { length } of [...plus, ...minus])
    if (length !== out.length)
      throw new RangeError(`a sum of ${out.length} integers was given an array of ${length} integers`);
  adder ??= new Adder();
  adder.addIntegers(out, plus, minus);
}
