import { wasm } from '../tensor/index.ts';

const { get, I32, leb, load, moduleBytes, PAGE_BYTES, simd, store, webAssembly } = wasm;

/**
 * Adds `bytes` bytes (a multiple of 4) at address `right` to those at `left`, or takes them away, and puts the result at
 * `target`, which may be either of them.
 */
export type AddBytes = (target: number, left: number, right: number, bytes: number) => void;

/** What is done with two stretches of memory: numbers in float32, integers modulo 2^32. */
export interface Kernels {
  readonly add: AddBytes;
  readonly addIntegers: AddBytes;
  readonly subtractIntegers: AddBytes;
}

/** A kernel's name, its SIMD instruction, and what loads, adds and stores single elements. */
interface Instructions {
  readonly name: keyof Kernels;
  readonly four: number;
  readonly load: number;
  readonly one: number;
  readonly store: number;
}

const KERNELS: readonly Instructions[] = [
  { name: 'add', four: 0xe4, load: 0x2a, one: 0x92, store: 0x38 }, // f32x4.add, f32.load, f32.add, f32.store
  { name: 'addIntegers', four: 0xae, load: 0x28, one: 0x6a, store: 0x36 }, // i32x4.add, i32.load, i32.add, i32.store
  { name: 'subtractIntegers', four: 0xb1, load: 0x28, one: 0x6b, store: 0x36 }, // i32x4.sub, …, i32.sub, …
];

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
    addIntegers: kernel(integers, (a, b) => (a + b) | 0),
    subtractIntegers: kernel(integers, (a, b) => (a - b) | 0),
  };
}

/**
 * The WebAssembly module, written by hand: it imports `memory`, and exports for each kernel `(target, left, right, bytes)`: a
 * loop over 64 bytes a turn, the kernel's instruction for `[left]` and `[right]` into `[target]`, and one over what is left.
 */
function kernelBytes(pages: number, shared: boolean): Uint8Array<ArrayBuffer> {
  const [target, left, right, bytes, end] = [0, 1, 2, 3, 4];
  const four = ({ four: instruction }: Instructions) =>
    [0, 16, 32, 48].flatMap((at) => [
      ...[...get(target), ...get(left), ...load(at), ...get(right), ...load(at)],
      ...[...simd(instruction), ...store(at)],
    ]);
  const one = (by: Instructions) => [
    ...[...get(target), ...get(left), by.load, 2, 0, ...get(right), by.load, 2, 0],
    ...[by.one, by.store, 2, 0],
  ];
  const advance = (local: number, step: number) => [...get(local), 0x41, ...leb(step, true), 0x6a];
  // end = target + (bytes & mask); while (target < end) { turn; left += step; right += step; target += step }
  const loop = (mask: number[], step: number, turn: number[]) => [
    ...[...get(target), ...get(bytes), 0x41, ...mask, 0x71, 0x6a, 0x21, end],
    ...[0x02, 0x40, ...get(target), ...get(end), 0x4f, 0x0d, 0, 0x03, 0x40, ...turn],
    ...[...advance(left, step), 0x21, left, ...advance(right, step), 0x21, right],
    ...[...advance(target, step), 0x22, target],
    ...[...get(end), 0x49, 0x0d, 0, 0x0b, 0x0b],
  ];
  return moduleBytes(
    { pages, imported: true, shared },
    KERNELS.map((by) => ({
      name: by.name,
      params: [I32, I32, I32, I32],
      results: [],
      // Where the target ends.
      locals: [I32],
      body: [
        ...loop([0x40], 64, four(by)), // (-64 in LEB128)
        ...loop([0x3f], 4, one(by)),
      ],
    })),
  );
}
