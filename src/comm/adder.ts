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

/** Adds block `source` of the stack to block `target`, or takes it away, `bytes` bytes (a multiple of 64) of each. */
type AddBlocks = (target: number, source: number, bytes: number) => void;

/** What is done with two blocks: numbers in float32, integers modulo 2^32. */
interface Kernels {
  readonly add: AddBlocks;
  readonly addIntegers: AddBlocks;
  readonly subtractIntegers: AddBlocks;
}

/** The kernels' names, and their SIMD instructions: f32x4.add, i32x4.add, i32x4.sub. */
const KERNELS: readonly (readonly [keyof Kernels, number])[] = [
  ['add', 0xe4],
  ['addIntegers', 0xae],
  ['subtractIntegers', 0xb1],
];

/** What is used of WebAssembly, which Node's types leave to those of browsers. */
interface WebAssemblyApi {
  validate(bytes: Uint8Array): boolean;
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (
    module: object,
  ) => { readonly exports: Kernels & { readonly memory: { readonly buffer: ArrayBuffer } } };
}

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
    const { WebAssembly } = globalThis as { readonly WebAssembly?: WebAssemblyApi };
    const module = kernelBytes();
    if (WebAssembly?.validate(module)) {
      const { memory, ...kernels } = new WebAssembly.Instance(new WebAssembly.Module(module)).exports;
      this.#memory = new Float32Array(memory.buffer);
      this.#kernels = kernels;
    } else {
      this.#memory = new Float32Array(BLOCK * DEPTH);
      this.#kernels = plainKernels(this.#memory);
    }
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
          this.#kernels.add((top - 1) * BLOCK_BYTES, top * BLOCK_BYTES, bytes);
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
          apply(0, BLOCK_BYTES, bytes);
        }
      into.set(this.#integers.subarray(0, end - start));
    }
  }
}

/** The kernels where there is no WebAssembly. */
function plainKernels(memory: Float32Array): Kernels {
  const integers = new Int32Array(memory.buffer);
  const kernel = <T extends Float32Array | Int32Array>(of: T, apply: (a: number, b: number) => number): AddBlocks => {
    return (target, source, bytes) => {
      const [to, from] = [target / 4, source / 4];
      for (let i = 0; i < bytes / 4; i++) of[to + i] = apply(of[to + i] as number, of[from + i] as number);
    };
  };
  return {
    add: kernel(memory, (a, b) => a + b),
    addIntegers: kernel(integers, (a, b) => (a + b) | 0),
    subtractIntegers: kernel(integers, (a, b) => (a - b) | 0),
  };
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

/**
 * The WebAssembly module, written by hand: `memory` with the stack of blocks, and for each kernel
 * `(target, source, bytes)`: a loop over 64 bytes a turn, the kernel's instruction for `[target]` and `[source]` into `[target]`.
 */
function kernelBytes(): Uint8Array<ArrayBuffer> {
  const pages = (BLOCK_BYTES * DEPTH) / 65_536;
  const section = (id: number, ...content: number[]) => [id, ...leb(content.length), ...content];
  const text = (name: string) => [name.length, ...new TextEncoder().encode(name)];
  const get = (local: number) => [0x20, local];
  const [target, source, bytes, end] = [0, 1, 2, 3];
  const load = (offset: number) => [0xfd, 0x00, 0x04, ...leb(offset)];
  const store = (offset: number) => [0xfd, 0x0b, 0x04, ...leb(offset)];
  const turn = (instruction: number) =>
    [0, 16, 32, 48].flatMap((at) => [
      ...get(target),
      ...get(target),
      ...load(at),
      ...get(source),
      ...load(at),
      ...[0xfd, ...leb(instruction)],
      ...store(at),
    ]);
  const advance = (local: number) => [...get(local), 0x41, ...leb(64, true), 0x6a];
  const body = (instruction: number) => [
    ...[1, 1, 0x7f], // one more local, i32: where the target ends
    ...[...get(target), ...get(bytes), 0x6a, 0x21, end],
    ...[0x03, 0x40, ...turn(instruction)],
    ...[...advance(source), 0x21, source, ...advance(target), 0x22, target],
    ...[...get(end), 0x49, 0x0d, 0, 0x0b], // while target < end
    0x0b,
  ];
  const count = KERNELS.length;
  const named = KERNELS.flatMap(([name], i) => [...text(name), 0, i]);
  const bodies = KERNELS.flatMap(([, instruction]) => [...leb(body(instruction).length), ...body(instruction)]);
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, 1, 0x60, 3, 0x7f, 0x7f, 0x7f, 0),
    ...section(3, count, ...KERNELS.map(() => 0)),
    ...section(5, 1, 1, ...leb(pages), ...leb(pages)),
    ...section(7, 1 + count, ...text('memory'), 2, 0, ...named),
    ...section(10, count, ...bodies),
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
