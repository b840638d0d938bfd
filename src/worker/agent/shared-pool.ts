/** Pieces of one size, and sizes, that are kept. */
const KEPT_OF_A_SIZE = 2;
const KEPT_SIZES = 8;

/**
 * Shared memory for copies to come, from copies that are not needed any more: after each step there is one of the same
 * size, and fresh pages cost 0.25 ms a MB when they are first written, and as much again when they are given back.
 */
export class SharedPool {
  /** By size in bytes, that which was used last at the end. */
  readonly #free = new Map<number, SharedArrayBuffer[]>();

  /** Memory of exactly this size; what is in it is undefined. */
  take(bytes: number): SharedArrayBuffer {
    return this.#free.get(bytes)?.pop() ?? new SharedArrayBuffer(bytes);
  }

  /** Takes memory back that nobody reads or writes any more. */
  give(buffer: SharedArrayBuffer): void {
    const { byteLength } = buffer;
    const free = this.#free.get(byteLength) ?? [];
    if (free.length < KEPT_OF_A_SIZE) free.push(buffer);
    this.#free.delete(byteLength);
    this.#free.set(byteLength, free);
    for (const old of [...this.#free.keys()].slice(0, -KEPT_SIZES)) this.#free.delete(old);
  }

  /** Takes memory that has not been used yet, for when a piece of its size is wanted and there is none. */
  reserve(buffer: SharedArrayBuffer): void {
    if (!this.#free.get(buffer.byteLength)?.length) this.give(buffer);
  }

  clear(): void {
    this.#free.clear();
  }
}
