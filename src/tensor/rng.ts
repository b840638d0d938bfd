import { cosTurns, kernelCos, kernelSin, logOfInteger } from './exact-math.ts';
import { threefry2x32 } from './threefry.ts';

/**
 * Counter-based random numbers on the host, keyed by names and numbers rather than by a position in a stream, so that a
 * draw does not depend on which rank makes it or what was drawn before.
 */
export interface Rng {
  /** A generator for a named or numbered purpose, independent of this one and of its other children. */
  fork(...keys: readonly (string | number)[]): Rng;
  /** The next 32 random bits. */
  uint32(): number;
  /** Uniform in [0, 1), 24 bits of resolution, exactly representable in float32. */
  uniform(): number;
  /** Standard normal (Box-Muller). */
  normal(): number;
  /** Uniform integer in [0, bound), 1 <= bound <= 2^32, without bias. @throws RangeError on another bound. */
  integer(bound: number): number;
  /** Fills `out` with low + (high - low) * u rounded to float32 (which may reach `high`). Default [0, 1). Returns `out`. */
  fillUniform(out: Float32Array, low?: number, high?: number): Float32Array;
  /** Fills `out` with normals. Default mean 0 and standard deviation 1. Returns `out`. */
  fillNormal(out: Float32Array, mean?: number, std?: number): Float32Array;
}

/**
 * A generator for a seed (a safe integer or a string). Draws are Threefry-2x32-20 blocks of a counter under a 64-bit
 * key; `fork` derives a key by absorbing each of its arguments with the same cipher, so equal paths of keys give equal
 * numbers wherever they are asked for, and the bits are the same in every JavaScript runtime.
 * @throws RangeError on a seed or key that is a number but not a safe integer.
 */
export function createRng(seed: number | string): Rng {
  return new ThreefryRng(absorb(ROOT_KEY, seed));
}

/** A uniformly random order of 0..n-1 (Fisher-Yates). It advances `rng`; pass a fork to key it. */
export function permutation(n: number, rng: Rng): Int32Array {
  const order = new Int32Array(n);
  for (let i = 0; i < n; i++) {
    const j = rng.integer(i + 1);
    order[i] = order[j] as number;
    order[j] = i;
  }
  return order;
}

type Key = readonly [number, number];

const ROOT_KEY: Key = [0x506c6578, 0x75732031];
const TAG_NUMBER = 1;
const TAG_STRING = 2;
const TAG_DRAW = 3;
const utf8 = new TextEncoder();
const U24 = 2 ** -24;
const ANGLE_UNIT = 2 ** -30;
const HALF_PI = 1.5707963267948966;
/** Random words at a time: few, since the loop over them is optimised from its next call on. */
const BATCH = 512;
const batch = new Uint32Array(BATCH);

/** One step of a hash chain: E_key(message) xor message (Matyas, Meyer and Oseas 1985). */
function compress(key: Key, m0: number, m1: number): Key {
  const block = new Uint32Array(2);
  threefry2x32(key[0], key[1], m0, m1, block, 0);
  return [(block[0] as number) ^ m0, (block[1] as number) ^ m1];
}

/** Absorbs a fork key; type and length go first, so that `fork('ab')`, `fork('a', 'b')` and `fork(1)`, `fork('1')` differ. */
function absorb(key: Key, value: string | number): Key {
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value))
      throw new RangeError(`a seed or random key must be a string or a safe integer, not ${value}`);
    return compress(compress(key, TAG_NUMBER, 0), value >>> 0, Math.floor(value / 4294967296) >>> 0);
  }
  const bytes = utf8.encode(value);
  let next = compress(key, TAG_STRING, bytes.length);
  const word = (at: number) =>
    (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8) | ((bytes[at + 2] ?? 0) << 16) | ((bytes[at + 3] ?? 0) << 24);
  for (let at = 0; at < bytes.length; at += 8) next = compress(next, word(at), word(at + 4));
  return next;
}

class ThreefryRng implements Rng {
  private readonly key: Key;
  private stream: Key | null = null;
  private readonly block = new Uint32Array(2);
  /** Words of the stream used so far. */
  private position = 0;

  constructor(key: Key) {
    this.key = key;
  }

  fork(...keys: readonly (string | number)[]): Rng {
    return new ThreefryRng(keys.reduce<Key>(absorb, this.key));
  }

  uint32(): number {
    const half = this.position & 1;
    if (half === 0) this.fillBlock(this.position / 2);
    this.position += 1;
    return this.block[half] as number;
  }

  uniform(): number {
    return (this.uint32() >>> 8) * U24;
  }

  normal(): number {
    this.alignToBlock();
    this.fillBlock(this.position / 2);
    this.position += 2;
    return radius(this.block[0] as number) * cosTurns((this.block[1] as number) * 2 ** -32);
  }

  integer(bound: number): number {
    if (!(Number.isInteger(bound) && bound >= 1 && bound <= 4294967296))
      throw new RangeError(`the bound of a random integer must be an integer from 1 to 2^32, not ${bound}`);
    // Reject the last, incomplete run of `bound` values, so that the remainder is unbiased.
    // (Quotients below 2^32 of integers are never rounded up to the next one; `%` of numbers beyond 2^31 is a slow division.)
    const limit = bound * Math.floor(4294967296 / bound);
    for (;;) {
      const bits = this.uint32();
      if (bits < limit) return bits - bound * Math.floor(bits / bound);
    }
  }

  fillUniform(out: Float32Array, low = 0, high = 1): Float32Array {
    const scale = (high - low) * U24;
    for (let i = 0; i < out.length; i++) out[i] = low + (this.uint32() >>> 8) * scale;
    return out;
  }

  fillNormal(out: Float32Array, mean = 0, std = 1): Float32Array {
    this.alignToBlock();
    const [key0, key1] = this.drawKey();
    for (let at = 0; at < out.length; at += BATCH) {
      const blocks = Math.ceil(Math.min(BATCH, out.length - at) / 2);
      const index = this.position / 2;
      threefry2x32(key0, key1, index >>> 0, Math.floor(index / 4294967296), batch, 0, blocks);
      this.position += 2 * blocks;
      normals(batch, out, at, mean, std);
    }
    return out;
  }

  private fillBlock(index: number): void {
    const [key0, key1] = this.drawKey();
    threefry2x32(key0, key1, index >>> 0, Math.floor(index / 4294967296), this.block, 0);
  }

  /** Draws have a key of their own, so that no draw can equal a word of a child's key. */
  private drawKey(): Key {
    this.stream ??= compress(this.key, TAG_DRAW, 0);
    return this.stream;
  }

  private alignToBlock(): void {
    this.position += this.position & 1;
  }
}

/**
 * Normals of pairs of random words, to `out` from `at` on, until either is full. A worker that starts draws all its weights
 * before its code is optimised, so this is a loop of arithmetic alone. It gives the bits that `radius`, `cosTurns` and `sinTurns`
 * give: both are a kernel of the same angle within an eighth of a turn, whose quadrant and remainder are bits of the word.
 */
function normals(words: Uint32Array, out: Float32Array, at: number, mean: number, std: number): void {
  const end = Math.min(out.length, at + words.length);
  for (let i = at, word = 0; i < end; i += 2, word += 2) {
    const r = std * radius(words[word] as number);
    const bits = words[word + 1] as number;
    // The low 30 bits with their sign are the way from the nearest quarter, in units of 2^-30 quarters.
    const angle = ((bits << 2) >> 2) * ANGLE_UNIT * HALF_PI;
    const quadrant = ((bits + 0x20000000) >>> 30) & 3;
    const sin = kernelSin(angle);
    const cos = kernelCos(angle);
    const odd = (quadrant & 1) === 1;
    const x = odd ? sin : cos;
    const y = odd ? cos : sin;
    out[i] = mean + r * (quadrant === 1 || quadrant === 2 ? -x : x);
    if (i + 1 < end) out[i + 1] = mean + r * (quadrant >= 2 ? -y : y);
  }
}

/** Box-Muller radius of 32 random bits: sqrt(-2 ln u) with u = (bits + 1) / 2^32 in (0, 1]. */
function radius(bits: number): number {
  return Math.sqrt(2 * (LN_2_32 - logOfInteger(bits + 1)));
}

const LN_2_32 = logOfInteger(4294967296);
