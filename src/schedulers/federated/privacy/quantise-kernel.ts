import { wasm } from '../../../tensor/index.ts';

const { constant, F64, get, I32, load, set, simd, store, tee, V128, wasmInstance } = wasm;

/** Numbers that are rounded at a time. */
export const ROUNDED = 8192;

/** What `round` works in: `ROUNDED` float32 numbers that become integers in place, and as many random words. */
export interface RoundingKernel {
  readonly values: Float32Array;
  readonly levels: Uint32Array;
  readonly bits: Int32Array;
  /**
   * Rounds the first `bytes` bytes (a multiple of 16) of numbers: `share` is what they are multiplied by, in float32; then
   * they are `(value + range) * scale`, rounded up with the chance that their fraction says, and cut to [0, most], `most` at most 2^31 - 1.
   */
  round(bytes: number, share: number, range: number, scale: number, most: number): void;
}

type Round = RoundingKernel['round'];

let made: RoundingKernel | null = null;

/** The kernel, in WebAssembly where there is any: a fifth of the time that a loop in JavaScript takes. */
export function roundingKernel(): RoundingKernel {
  if (made) return made;
  const instance = wasmInstance<{ readonly round: Round }>(8 * ROUNDED, [roundFunction()]);
  made = kernelOver(instance?.memory.buffer ?? new ArrayBuffer(8 * ROUNDED), instance?.round);
  return made;
}

/** The kernel where there is no WebAssembly. */
export function plainRounding(): RoundingKernel {
  return kernelOver(new ArrayBuffer(8 * ROUNDED));
}

function kernelOver(buffer: ArrayBuffer, round?: Round): RoundingKernel {
  const values = new Float32Array(buffer, 0, ROUNDED);
  const levels = new Uint32Array(buffer, 0, ROUNDED);
  const bits = new Int32Array(buffer, 4 * ROUNDED, ROUNDED);
  const plain: Round = (bytes, share, range, scale, most) => {
    for (let i = 0; i < bytes / 4; i++) {
      const exact = (Math.fround((values[i] as number) * share) + range) * scale;
      const chance = ((bits[i] as number) >>> 8) * 2 ** -24;
      levels[i] = exact <= 0 ? 0 : Math.min(exact + chance, most) >>> 0;
    }
  };
  return { values, levels, bits, round: round ?? plain };
}

/** `round`, two numbers at a time in double precision: the operations of the loop above, in their order. */
function roundFunction(): wasm.WasmFunction {
  const [bytes, share, range, scale, most] = [0, 1, 2, 3, 4];
  const [at, four, words, shares, ranges, scales, mosts, chances, zero, low] = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
  const [promote, demote, convert, truncate] = [0x5f, 0x5e, 0xfe, 0xfc];
  // (`pmin` and `pmax`, of which each is one instruction; not a number stays so, and is level 0.)
  const [add, mul, least, largest, shiftRight, splat, shuffle] = [0xf0, 0xf2, 0xf6, 0xf7, 0xad, 0x14, 0x0d];
  const upper = (local: number) => [
    ...[...get(local), ...get(local), ...simd(shuffle, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)],
  ];
  // Two levels, in the low half of what is on the stack.
  const rounded = (numbers: number[], random: number[]) => [
    ...[...numbers, ...simd(promote), ...get(shares), ...simd(mul), ...simd(demote), ...simd(promote)],
    ...[...get(ranges), ...simd(add), ...get(scales), ...simd(mul)],
    ...[...get(zero), ...simd(largest)],
    ...[...random, ...simd(convert), ...get(chances), ...simd(mul), ...simd(add)],
    ...[...get(mosts), ...simd(least), ...simd(truncate)],
  ];
  const broadcast = (from: number[], to: number) => [...from, ...simd(splat), ...set(to)];
  return {
    name: 'round',
    params: [I32, F64, F64, F64, F64],
    results: [],
    locals: [I32, V128, V128, V128, V128, V128, V128, V128, V128, V128],
    body: [
      ...[...broadcast(get(share), shares), ...broadcast(get(range), ranges)],
      ...[...broadcast(get(scale), scales), ...broadcast(get(most), mosts)],
      ...broadcast([0x44, 0, 0, 0, 0, 0, 0, 0x70, 0x3e], chances), // f64.const 2^-24
      ...[0x03, 0x40],
      ...[...get(at), ...load(0), ...set(four)],
      ...[...get(at), ...load(4 * ROUNDED), ...constant(8), ...simd(shiftRight), ...set(words)],
      ...[...rounded(get(four), get(words)), ...set(low)],
      ...[...get(at), ...get(low), ...rounded(upper(four), upper(words))],
      ...[...simd(shuffle, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23), ...store(0)],
      ...[...get(at), ...constant(16), 0x6a, ...tee(at), ...get(bytes), 0x49, 0x0d, 0, 0x0b],
    ],
  };
}
