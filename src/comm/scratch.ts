/** Below this many bytes fresh memory costs less than looking after it. */
const SMALLEST = 16_384;

/** Memory that one thread keeps at most, in bytes. */
const HELD = 256 * 2 ** 20;

/**
 * Memory of messages, used again and again: fresh pages cost 0.25 ms a megabyte when they are first written. Arrays are
 * given in capacities of eight steps an octave, so that messages whose length varies (tokens for an expert) still find
 * memory. A thread that sends as much as it receives allocates nothing: what arrives becomes the memory of what is sent
 * next.
 *
 * It is shared memory, handed from thread to thread by agreement: who has sent an array does not touch it any more. A
 * transferred ArrayBuffer would enforce that, but V8 counts it as allocated by the thread that receives it, and begins
 * a full garbage collection every 8 MB of these (measured: a quarter of all CPU time of a small mixture of experts).
 */
export class ScratchPool {
  readonly #free = new Map<number, SharedArrayBuffer[]>();
  readonly #taken = new WeakSet<ArrayBufferLike>();
  readonly #limit: number;
  #held = 0;

  constructor(limit = HELD) {
    this.#limit = limit;
  }

  /** An array whose content is undefined. */
  take(length: number): Float32Array {
    const bytes = length * Float32Array.BYTES_PER_ELEMENT;
    if (bytes < SMALLEST) return new Float32Array(length);
    const capacity = capacityFor(bytes + COUNTER);
    let buffer = this.#free.get(capacity)?.pop();
    if (buffer) this.#held -= capacity;
    else buffer = new SharedArrayBuffer(capacity);
    this.#taken.add(buffer);
    holders(buffer)[0] = 1;
    return new Float32Array(buffer, 0, length);
  }

  /**
   * Says that an array taken here goes to so many receivers, each of whom only reads it and gives it back: the last one
   * to do so keeps it. To be called before it is sent.
   */
  share(array: Float32Array, receivers: number): Float32Array {
    if (this.owns(array.buffer)) Atomics.store(holders(array.buffer), 0, receivers);
    return array;
  }

  /** Takes an array back whose memory nobody uses any more; also one that came in a message. */
  give(array: Float32Array): void {
    const { buffer } = array;
    const bytes = buffer.byteLength;
    if (!(buffer instanceof SharedArrayBuffer) || capacityFor(bytes) !== bytes) return;
    // Others that it was sent to may still read it.
    if (Atomics.sub(holders(buffer), 0, 1) > 1) return;
    if (this.#held + bytes > this.#limit) return;
    const list = this.#free.get(bytes);
    if (list) list.push(buffer);
    else this.#free.set(bytes, [buffer]);
    this.#held += bytes;
  }

  /** Says that an array came in a message as scratch memory of another thread, and is to be handed on as what it is. */
  adopt({ buffer }: { readonly buffer: ArrayBufferLike }): void {
    if (buffer instanceof SharedArrayBuffer && capacityFor(buffer.byteLength) === buffer.byteLength)
      this.#taken.add(buffer);
  }

  /** Whether a buffer was taken from here, and so may be sent away whole. */
  owns(buffer: ArrayBufferLike): buffer is SharedArrayBuffer {
    return this.#taken.has(buffer);
  }

  /** Bytes that lie ready. */
  get heldBytes(): number {
    return this.#held;
  }
}

/** Bytes at the end of a buffer that count who still uses it. */
const COUNTER = 4;

function holders(buffer: SharedArrayBuffer): Int32Array {
  return new Int32Array(buffer, buffer.byteLength - COUNTER, 1);
}

/** The pool of this thread. */
export const scratch = new ScratchPool();

/** Rounds up to a multiple of an eighth of the next smaller power of two. */
function capacityFor(bytes: number): number {
  const step = 2 ** Math.max(12, Math.floor(Math.log2(bytes)) - 3);
  return Math.ceil(bytes / step) * step;
}
