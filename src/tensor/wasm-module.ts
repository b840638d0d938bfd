/** Memory that WebAssembly code works on; if it is shared, a message takes it to other threads as the same memory. */
export interface WasmMemory {
  readonly buffer: ArrayBufferLike;
}

/** What is used of WebAssembly, which Node's types leave to those of browsers. */
export interface WebAssemblyApi {
  validate(bytes: Uint8Array): boolean;
  readonly Memory: new (size: {
    readonly initial: number;
    readonly maximum: number;
    readonly shared: boolean;
  }) => WasmMemory;
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (
    module: object,
    imports?: { readonly from: { readonly memory: WasmMemory } },
  ) => { readonly exports: unknown };
}

/** Bytes of a page, which WebAssembly's memory comes in. */
export const PAGE_BYTES = 65_536;

/** WebAssembly, where there is any. */
export const webAssembly = (): WebAssemblyApi | undefined =>
  (globalThis as { readonly WebAssembly?: WebAssemblyApi }).WebAssembly;

/** Value types by their bytes in the binary format. */
export const I32 = 0x7f;
export const F32 = 0x7d;
export const F64 = 0x7c;
export const V128 = 0x7b;

/** A function of a module written by hand. */
export interface WasmFunction {
  readonly name: string;
  readonly params: readonly number[];
  readonly results: readonly number[];
  /** Types of the locals behind the parameters. */
  readonly locals: readonly number[];
  /** Instructions, without the last `end`. */
  readonly body: readonly number[];
}

/** Instructions that take a local's value, put one there, and do so while it stays on the stack. */
export const get = (local: number): number[] => [0x20, local];
export const set = (local: number): number[] => [0x21, local];
export const tee = (local: number): number[] => [0x22, local];

/** A SIMD instruction. */
export const simd = (instruction: number, ...immediates: number[]): number[] => [
  0xfd,
  ...leb(instruction),
  ...immediates,
];

/** Loads, and stores, 16 bytes at an address on the stack and a constant more. */
export const load = (offset: number): number[] => simd(0x00, 4, ...leb(offset));
export const store = (offset: number): number[] => simd(0x0b, 4, ...leb(offset));

/** An i32 constant from 0 on. */
export const constant = (value: number): number[] => [0x41, ...leb(value, true)];

/**
 * Makes a WebAssembly module with `memory` of so many bytes (a multiple of 64 KB) and functions, and an instance of it. Null where there is no
 * WebAssembly with SIMD.
 * @typeParam T its exports besides the memory
 */
export function wasmInstance<T>(
  bytes: number,
  functions: readonly WasmFunction[],
): (T & { readonly memory: { readonly buffer: ArrayBuffer } }) | null {
  const api = webAssembly();
  const module = moduleBytes({ pages: bytes / PAGE_BYTES, imported: false, shared: false }, functions);
  if (!api?.validate(module)) return null;
  return new api.Instance(new api.Module(module)).exports as ReturnType<typeof wasmInstance<T>>;
}

/** The memory of a module: its own, which it exports, or one that it is given as `memory` of `from`. */
export interface ModuleMemory {
  readonly pages: number;
  readonly imported: boolean;
  readonly shared: boolean;
}

/** A module with that memory and those functions, all of which it exports. */
export function moduleBytes(memory: ModuleMemory, functions: readonly WasmFunction[]): Uint8Array<ArrayBuffer> {
  // (A memory that is shared says how large it may become; ours never grow.)
  const limits = [memory.shared ? 3 : 1, ...leb(memory.pages), ...leb(memory.pages)];
  const list = (items: readonly (readonly number[])[]) => [...leb(items.length), ...items.flat()];
  const section = (id: number, content: readonly number[]) => [id, ...leb(content.length), ...content];
  const text = (name: string) => [name.length, ...new TextEncoder().encode(name)];
  const types = functions.map(({ params, results }) => [
    0x60,
    ...list(params.map((type) => [type])),
    ...list(results.map((type) => [type])),
  ]);
  const bodies = functions.map(({ locals, body }) => {
    const code = [...list(locals.map((type) => [1, type])), ...body, 0x0b];
    return [...leb(code.length), ...code];
  });
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, list(types)),
    ...(memory.imported ? section(2, [1, ...text('from'), ...text('memory'), 2, ...limits]) : []),
    ...section(3, list(functions.map((_, i) => [i]))),
    ...(memory.imported ? [] : section(5, [1, ...limits])),
    ...section(
      7,
      list([
        ...(memory.imported ? [] : [[...text('memory'), 2, 0]]),
        ...functions.map(({ name }, i) => [...text(name), 0, i]),
      ]),
    ),
    ...section(10, list(bodies)),
  ]);
}

/** An integer in LEB128; signed ones (constants) need their last byte's second bit clear to be positive. */
export function leb(value: number, signed = false): number[] {
  const out: number[] = [];
  let rest = value;
  while (rest > (signed ? 0x3f : 0x7f)) {
    out.push((rest & 0x7f) | 0x80);
    rest >>= 7;
  }
  out.push(rest);
  return out;
}
