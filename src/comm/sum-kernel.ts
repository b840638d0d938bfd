import { get, leb, load, simd, store } from './wasm-module.ts';

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

/** Bytes of a page, which WebAssembly's memory comes in. */
export const PAGE_BYTES = 65_536;

/** Memory that WebAssembly code works on; if it is shared, a message takes it to other threads as the same memory. */
export interface WasmMemory {
  readonly buffer: ArrayBufferLike;
}

/** What is used of WebAssembly, which Node's types leave to those of browsers. */
interface WebAssemblyApi {
  validate(bytes: Uint8Array): boolean;
  readonly Memory: new (size: {
    readonly initial: number;
    readonly maximum: number;
    readonly shared: boolean;
  }) => WasmMemory;
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (
    module: object,
    imports: { readonly from: { readonly memory: WasmMemory } },
  ) => { readonly exports: Kernels };
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

const api = (): WebAssemblyApi | undefined =>
  (globalThis as { readonly WebAssembly?: WebAssemblyApi }).WebAssembly ?? undefined;

/** Fresh memory of so many pages, or null where there is none (no WebAssembly with SIMD, or no room for it). */
export function wasmMemory(pages: number, shared: boolean): WasmMemory | null {
  const wasm = api();
  if (!wasm?.validate(kernelBytes(pages, shared))) return null;
  try {
    return new wasm.Memory({ initial: pages, maximum: pages, shared });
  } catch {
    return null;
  }
}

/** Kernels that work on a memory made by `wasmMemory` (here or in another thread). */
export function kernelsFor(memory: WasmMemory): Kernels {
  const wasm = api() as WebAssemblyApi;
  const shared = !(memory.buffer instanceof ArrayBuffer);
  const module = new wasm.Module(kernelBytes(memory.buffer.byteLength / PAGE_BYTES, shared));
  return new wasm.Instance(module, { from: { memory } }).exports;
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
  const section = (id: number, ...content: number[]) => [id, ...leb(content.length), ...content];
  const text = (name: string) => [name.length, ...new TextEncoder().encode(name)];
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
  const body = (by: Instructions) => [
    ...[1, 1, 0x7f], // one more local, i32: where the target ends
    ...loop([0x40], 64, four(by)), // (-64 in LEB128)
    ...loop([0x3f], 4, one(by)),
    0x0b,
  ];
  const count = KERNELS.length;
  const bodies = KERNELS.map(body).flatMap((code) => [...leb(code.length), ...code]);
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, 1, 0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 0),
    ...section(2, 1, ...text('from'), ...text('memory'), 2, shared ? 3 : 1, ...leb(pages), ...leb(pages)),
    ...section(3, count, ...KERNELS.map(() => 0)),
    ...section(7, count, ...KERNELS.flatMap(({ name }, i) => [...text(name), 0, i])),
    ...section(10, count, ...bodies),
  ]);
}
