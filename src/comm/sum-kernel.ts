import { wasm } from '../tensor/index.ts';

const { get, I32, leb, load, moduleBytes, PAGE_BYTES, set, simd, store, webAssembly } = wasm;

/**
 * Adds `bytes` bytes (a multiple of 4) at address `right` to those at `left`, or takes them away, and puts the result at
 * `target`, which may be either of them.
 */
export type AddBytes = (target: number, left: number, right: number, bytes: number) => void;

/** Puts `([a] + [b]) + ([c] + [d])` at `target`, which may be one of them: `bytes` bytes, a multiple of 4. */
export type AddFour = (target: number, a: number, b: number, c: number, d: number, bytes: number) => void;

/** What is done with stretches of memory: numbers in float32, integers modulo 2^32. */
export interface Kernels {
  readonly add: AddBytes;
  readonly addFour: AddFour;
  readonly addIntegers: AddBytes;
  readonly subtractIntegers: AddBytes;
}

/** Instructions that add or take away, for four elements at a time and for one; and what loads and stores one. */
interface Instructions {
  readonly four: number;
  readonly one: number;
  readonly load: number;
  readonly store: number;
}

const ADD: Instructions = { four: 0xe4, one: 0x92, load: 0x2a, store: 0x38 }; // f32x4.add, f32.add, f32.load, f32.store
const ADD_INTEGERS: Instructions = { four: 0xae, one: 0x6a, load: 0x28, store: 0x36 }; // i32x4.add, i32.add, …
const SUBTRACT_INTEGERS: Instructions = { ...ADD_INTEGERS, four: 0xb1, one: 0x6b }; // i32x4.sub, i32.sub

/** Fresh memory of so many pages, or null where there is none (no WebAssembly with SIMD, or no room for it). */
export function wasmMemory(pages: number, shared: boolean): wasm.WasmMemory | null {
  const api = webAssembly();
  if (!api?.validate(kernelBytes(pages, shared))) return null;
  try {
    return new api.Memory({ initial: pages, maximum: pages, shared });
  } catch {
    return null;
  }
}

/** Kernels that work on a memory made by `wasmMemory` (here or in another thread). */
export function kernelsFor(memory: wasm.WasmMemory): Kernels {
  const api = webAssembly() as wasm.WebAssemblyApi;
  const shared = !(memory.buffer instanceof ArrayBuffer);
  const module = new api.Module(kernelBytes(memory.buffer.byteLength / PAGE_BYTES, shared));
  return new api.Instance(module, { from: { memory } }).exports as Kernels;
}

/** The same kernels where there is no WebAssembly. */
export function plainKernels(memory: Float32Array): Kernels {
  const integers = new Int32Array(memory.buffer);
  const kernel = <T extends Float32Array | Int32Array>(of: T, apply: (a: number, b: number) => number): AddBytes => {
    return (target, left, right, bytes) => {
      const [to, a, b] = [target / 4, left / 4, right / 4];
      for (let i = 0; i < bytes / 4; i++) of[to + i] = apply(of[a + i] as number, of[b + i] as number);
    };
  };
  return {
    add: kernel(memory, (a, b) => a + b),
    addFour: (target, a, b, c, d, bytes) => {
      const [to, first, second, third, fourth] = [target / 4, a / 4, b / 4, c / 4, d / 4];
      const sum = (left: number, right: number) => Math.fround((memory[left] as number) + (memory[right] as number));
      for (let i = 0; i < bytes / 4; i++) memory[to + i] = sum(first + i, second + i) + sum(third + i, fourth + i);
    },
    addIntegers: kernel(integers, (a, b) => (a + b) | 0),
    subtractIntegers: kernel(integers, (a, b) => (a - b) | 0),
  };
}

/** `add` of `Kernels` for modules that have a memory of their own. */
export function wasmAddition(): wasm.WasmFunction {
  return kernel('add', 2, ADD);
}

/** The WebAssembly module, written by hand: it imports `memory`, and exports the kernels. */
function kernelBytes(pages: number, shared: boolean): Uint8Array<ArrayBuffer> {
  return moduleBytes({ pages, imported: true, shared }, [
    wasmAddition(),
    kernel('addFour', 4, ADD),
    kernel('addIntegers', 2, ADD_INTEGERS),
    kernel('subtractIntegers', 2, SUBTRACT_INTEGERS),
  ]);
}

/**
 * A function `(target, ...operands, bytes)`: a loop over 64 bytes a turn, and one over what is left. Two operands are added, or
 * four in pairs; they are parameters 1 to `operands`.
 */
function kernel(name: keyof Kernels, operands: 2 | 4, by: Instructions): wasm.WasmFunction {
  const [target, bytes, end] = [0, operands + 1, operands + 2];
  const inputs = Array.from({ length: operands }, (_, i) => i + 1);
  // What `fetch` puts on the stack for each operand, added up.
  const sum = (fetch: (local: number) => number[], apply: number[]): number[] =>
    operands === 2
      ? [...fetch(1), ...fetch(2), ...apply]
      : [...fetch(1), ...fetch(2), ...apply, ...fetch(3), ...fetch(4), ...apply, ...apply];
  const four = [0, 16, 32, 48].flatMap((at) => [
    ...[...get(target), ...sum((local) => [...get(local), ...load(at)], simd(by.four)), ...store(at)],
  ]);
  const one = [...get(target), ...sum((local) => [...get(local), by.load, 2, 0], [by.one]), by.store, 2, 0];
  const advance = (local: number, step: number) => [...get(local), 0x41, ...leb(step, true), 0x6a, ...set(local)];
  // end = target + (bytes & mask); while (target < end) { turn; each operand += step; target += step }
  const loop = (mask: number[], step: number, turn: number[]) => [
    ...[...get(target), ...get(bytes), 0x41, ...mask, 0x71, 0x6a, ...set(end)],
    ...[0x02, 0x40, ...get(target), ...get(end), 0x4f, 0x0d, 0, 0x03, 0x40, ...turn],
    ...[...inputs, target].flatMap((local) => advance(local, step)),
    ...[...get(target), ...get(end), 0x49, 0x0d, 0, 0x0b, 0x0b],
  ];
  return {
    name,
    params: new Array<number>(operands + 2).fill(I32),
    results: [],
    // Where the target ends.
    locals: [I32],
    body: [
      ...loop([0x40], 64, four), // (-64 in LEB128)
      ...loop([0x3f], 4, one),
    ],
  };
}
