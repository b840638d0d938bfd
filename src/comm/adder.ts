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

/** Adds block `source` to block `target` of the stack, `bytes` bytes (a multiple of 64) of each. */
type AddBlocks = (target: number, source: number, bytes: number) => void;

/** What is used of WebAssembly, which Node's types leave to those of browsers. */
interface WebAssemblyApi {
  validate(bytes: Uint8Array): boolean;
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (
    module: object,
  ) => { readonly exports: { readonly memory: { readonly buffer: ArrayBuffer }; readonly add: AddBlocks } };
}

/**
 * Sums float32 arrays at the speed of memory: a JavaScript loop adds 2 GB/s, SIMD in WebAssembly 30, but only in its own
 * memory. So operands are copied in block by block, which the caches hold (measured: 7-9 GB/s in all).
 * Each addition is rounded to float32, in the order that is asked for.
 */
class Adder {
  readonly #memory: Float32Array;
  readonly #add: AddBlocks;

  constructor() {
    const { WebAssembly } = globalThis as { readonly WebAssembly?: WebAssemblyApi };
    const module = kernelBytes();
    if (WebAssembly?.validate(module)) {
      const { memory, add } = new WebAssembly.Instance(new WebAssembly.Module(module)).exports;
      this.#memory = new Float32Array(memory.buffer);
      this.#add = add;
    } else {
      const memory = new Float32Array(BLOCK * DEPTH);
      this.#memory = memory;
      this.#add = (target, source, bytes) => {
        const [to, from] = [target / 4, source / 4];
        for (let i = 0; i < bytes / 4; i++) memory[to + i] = (memory[to + i] as number) + (memory[from + i] as number);
      };
    }
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
          this.#add((top - 1) * BLOCK_BYTES, top * BLOCK_BYTES, bytes);
        } else {
          const operand = operands[item] as Float32Array;
          memory.set(whole ? operand : operand.subarray(start, end), top * BLOCK);
          top += 1;
        }
      const sum = memory.subarray(0, end - start);
      for (const out of outs) out.set(sum, start);
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
 * The WebAssembly module, written by hand: `memory` with the stack of blocks, and
 * `add(target, source, bytes)`: a loop over 64 bytes a turn, `f32x4.add` of `[target]` and `[source]` into `[target]`.
 */
function kernelBytes(): Uint8Array<ArrayBuffer> {
  const pages = (BLOCK_BYTES * DEPTH) / 65_536;
  const section = (id: number, ...content: number[]) => [id, ...leb(content.length), ...content];
  const text = (name: string) => [name.length, ...new TextEncoder().encode(name)];
  const get = (local: number) => [0x20, local];
  const [target, source, bytes, end] = [0, 1, 2, 3];
  const load = (offset: number) => [0xfd, 0x00, 0x04, ...leb(offset)];
  const store = (offset: number) => [0xfd, 0x0b, 0x04, ...leb(offset)];
  const addVectors = [0xfd, ...leb(0xe4)];
  const turn = [0, 16, 32, 48].flatMap((at) => [
    ...get(target),
    ...get(target),
    ...load(at),
    ...get(source),
    ...load(at),
    ...addVectors,
    ...store(at),
  ]);
  const advance = (local: number) => [...get(local), 0x41, ...leb(64, true), 0x6a];
  const body = [
    ...[1, 1, 0x7f], // one more local, i32: where the target ends
    ...[...get(target), ...get(bytes), 0x6a, 0x21, end],
    ...[0x03, 0x40, ...turn],
    ...[...advance(source), 0x21, source, ...advance(target), 0x22, target],
    ...[...get(end), 0x49, 0x0d, 0, 0x0b], // while target < end
    0x0b,
  ];
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, 1, 0x60, 3, 0x7f, 0x7f, 0x7f, 0),
    ...section(3, 1, 0),
    ...section(5, 1, 1, ...leb(pages), ...leb(pages)),
    ...section(7, 2, ...text('memory'), 2, 0, ...text('add'), 0, 0),
    ...section(10, 1, ...leb(body.length), ...body),
  ]);
}

/** An integer in LEB128; signed ones (constants) need their last byte's second bit clear to be positive. */
function leb(value: number, signed = false): number[] {
  const out: number[] = [];
  let rest = value;
  while (rest > (signed ? 0x3f : 0x7f)) {
    out.push((rest & 0x7f) | 0x80);
    rest >>= 7;
  }
  out.push(rest);
  return out;
}
