import { addArrays } from '../../comm/index.ts';
import type { TensorPart } from '../local/index.ts';
import { BLOCK, type UpdateKernels, updateKernels } from './update-kernels.ts';

/** Memory of one update, and of the values that it is measured from. */
interface Vector {
  readonly values: Float32Array;
  /** Where it lies in the arena's memory; null if it is elsewhere. */
  readonly address: number | null;
}

/** Bytes that vectors take at most; where theirs would be more they are elsewhere, and copied block by block. */
const MOST_BYTES = 2 ** 30;

/** Vectors of one size that are added up, and lent out again. */
export interface SumMemory {
  /** Takes back a vector that nobody looks at any more. */
  give(values: Float32Array): void;
  /** `left[i] += right[i]`, in float32. */
  add(left: Float32Array, right: Float32Array): void;
}

/**
 * Memory for updates of one size, next to the code that works on it: a client's update is made out of its parameters in one pass, and
 * added to others' without a copy. Vectors that are not the arena's may be given wherever one is; that takes longer.
 */
export class UpdateArena implements SumMemory {
  readonly size: number;
  readonly #kernels: UpdateKernels;
  readonly #free: Vector[] = [];
  readonly #known = new Map<Float32Array, Vector>();
  /** Blocks of what is given from elsewhere. */
  readonly #ends: Float32Array;
  readonly #starts: Float32Array;
  readonly #start: Vector;

  /** @param vectors how many of them are there at a time, at most; there may be more, elsewhere */
  constructor(size: number, vectors: number) {
    this.size = size;
    const bytes = Math.ceil(size / 16) * 64;
    let inside = bytes * (vectors + 1) <= MOST_BYTES ? vectors + 1 : 0;
    try {
      this.#kernels = updateKernels(8 * BLOCK + inside * bytes);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      inside = 0;
      this.#kernels = updateKernels(8 * BLOCK);
    }
    const { buffer } = this.#kernels.memory;
    this.#ends = new Float32Array(buffer, 0, BLOCK);
    this.#starts = new Float32Array(buffer, 4 * BLOCK, BLOCK);
    for (let i = inside - 1; i >= 0; i--) {
      const address = 8 * BLOCK + i * bytes;
      this.#free.push({ values: new Float32Array(buffer, address, size), address });
    }
    for (const vector of this.#free) this.#known.set(vector.values, vector);
    this.#start = this.#take();
  }

  /** What updates are measured from, as `begin` was told it last. Not to be written to. */
  get start(): Float32Array {
    return this.#start.values;
  }

  /** A vector to write to. */
  take(): Float32Array {
    return this.#take().values;
  }

  /** Takes back a vector that nobody looks at any more. */
  give(values: Float32Array): void {
    this.#free.push(this.#known.get(values) ?? { values, address: null });
  }

  /** What updates are measured from from now on, one part behind the other. */
  begin(...parts: readonly Float32Array[]): void {
    let at = 0;
    for (const part of parts) {
      this.#start.values.set(part, at);
      at += part.length;
    }
  }

  /**
   * Writes to elements [from, to) of `target` how they have changed since the start: `(now - start) * factor`, in float32. `parts`
   * have what they are now; they may be of `target` itself.
   * @param factor a float32
   * @returns the Euclidean norm before the factor, in double precision
   */
  change(target: Float32Array, from: number, to: number, parts: readonly TensorPart[], factor = 1): number {
    const into = this.#known.get(target)?.address ?? null;
    const first = this.#start.address;
    const [ends, starts] = [this.#ends, this.#starts];
    let squares = 0;
    for (let at = from; at < to; at += BLOCK) {
      const end = Math.min(at + BLOCK, to);
      const count = end - at;
      const padded = Math.ceil(count / 4) * 4;
      gather(ends, parts, at, end);
      // (Behind a block that is no multiple of four elements lies something else: it is padded with zeros, aside.)
      const inside = padded === count;
      if (first === null || !inside) {
        starts.set(this.#start.values.subarray(at, end));
        ends.fill(0, count, padded);
        starts.fill(0, count, padded);
      }
      const base = first === null || !inside ? starts.byteOffset : first + 4 * at;
      const place = into === null || !inside ? ends.byteOffset : into + 4 * at;
      squares += this.#kernels.change(place, ends.byteOffset, base, 4 * padded, factor);
      if (place === ends.byteOffset) target.set(ends.subarray(0, count), at);
    }
    return Math.sqrt(squares);
  }

  /** `left[i] += right[i]`, in float32. */
  add(left: Float32Array, right: Float32Array): void {
    const [to, from] = [this.#known.get(left)?.address ?? null, this.#known.get(right)?.address ?? null];
    if (to !== null && from !== null) this.#kernels.add(to, to, from, Math.ceil(this.size / 4) * 16);
    else addArrays(left, left, right);
  }

  #take(): Vector {
    return this.#free.pop() ?? { values: new Float32Array(this.size), address: null };
  }
}

/** Copies what parts have of elements [from, to) of a vector. */
function gather(to: Float32Array, parts: readonly TensorPart[], from: number, end: number): void {
  for (const { offset, data } of parts) {
    const [first, last] = [Math.max(from, offset), Math.min(end, offset + data.length)];
    if (first >= last) continue;
    const whole = first === offset && last === offset + data.length;
    to.set(whole ? data : data.subarray(first - offset, last - offset), first - from);
  }
}
