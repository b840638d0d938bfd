/*
 * A ring in shared memory carries the bytes of one direction. Its first page holds four words, each in a cache line of its
 * own: how many bytes were written and read (modulo 2^32), and whether either side sleeps and wants to be rung.
 */
const HEAD = 0;
const TAIL = 16;
const READER_SLEEPS = 32;
const WRITER_SLEEPS = 48;
const HEADER_BYTES = 4096;

/** Bytes that are copied before the other side is told: it can begin while the rest is being copied. */
const STRIDE = 256 * 1024;
/** Bytes that one turn of the event loop may copy. */
const TURN_BYTES = 16 * 2 ** 20;

/** Bytes of memory that a ring with so much room takes. */
export const ringBytes = (capacity: number): number => HEADER_BYTES + capacity;

/** What both ends of a ring know. */
class Ring {
  readonly words: Int32Array;
  readonly data: Uint8Array;
  readonly capacity: number;

  /** The capacity must be a power of two. */
  constructor(memory: ArrayBuffer) {
    this.words = new Int32Array(memory, 0, HEADER_BYTES / 4);
    this.data = new Uint8Array(memory, HEADER_BYTES);
    this.capacity = this.data.length;
  }
}

interface Job {
  readonly pieces: readonly Uint8Array[];
  readonly done: () => void;
  readonly failed: (error: Error) => void;
  index: number;
  at: number;
}

/** The sending end: copies what is written into the ring, in order, as there is room. */
export class RingWriter {
  readonly #ring: Ring;
  readonly #ringBell: () => void;
  readonly #jobs: Job[] = [];
  #head = 0;
  #queuedBytes = 0;
  #again: NodeJS.Immediate | null = null;
  #ended: Error | null = null;
  #idle: (() => void)[] = [];

  /** `ringBell` wakes the reader up. */
  constructor(memory: ArrayBuffer, ringBell: () => void) {
    this.#ring = new Ring(memory);
    this.#ringBell = ringBell;
  }

  /** Bytes that wait for room. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  /** Appends pieces. Resolves when all were copied; undefined if that is so already. */
  write(given: readonly Uint8Array[]): Promise<void> | undefined {
    if (this.#ended) return Promise.reject(this.#ended);
    const pieces = given.filter(({ length }) => length > 0);
    if (pieces.length === 0) return undefined;
    let finished = false;
    let done = () => {
      finished = true;
    };
    let failed: (error: Error) => void = () => undefined;
    for (const { length } of pieces) this.#queuedBytes += length;
    this.#jobs.push({ pieces, index: 0, at: 0, done: () => done(), failed: (error) => failed(error) });
    if (this.#jobs.length === 1) this.pump();
    if (finished) return undefined;
    return new Promise((resolve, reject) => {
      done = resolve;
      failed = reject;
    });
  }

  /** Copies what there is room for. Called when the reader rings. */
  pump(): void {
    if (this.#again) clearImmediate(this.#again);
    this.#again = null;
    const { words, capacity } = this.#ring;
    let turn = 0;
    while (this.#queuedBytes > 0 && !this.#ended) {
      const room = capacity - ((this.#head - Atomics.load(words, TAIL)) >>> 0);
      if (room === 0) {
        // Asks to be rung, then looks again: the reader may have made room just before it could see that.
        Atomics.store(words, WRITER_SLEEPS, 1);
        if (capacity === (this.#head - Atomics.load(words, TAIL)) >>> 0) return;
        Atomics.store(words, WRITER_SLEEPS, 0);
        continue;
      }
      if (turn >= TURN_BYTES) {
        this.#again = setImmediate(() => this.pump());
        return;
      }
      turn += this.#copy(Math.min(room, STRIDE));
      Atomics.store(words, HEAD, this.#head | 0);
      if (Atomics.load(words, READER_SLEEPS) === 1 && Atomics.exchange(words, READER_SLEEPS, 0) === 1) this.#ringBell();
    }
    if (this.#queuedBytes === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }

  /** Resolves when everything was copied, or after `end`. */
  drained(): Promise<void> {
    if (this.#ended || this.#queuedBytes === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  /** Fails what waits. The memory is not touched any more. */
  end(error: Error): void {
    if (this.#ended) return;
    this.#ended = error;
    if (this.#again) clearImmediate(this.#again);
    for (const job of this.#jobs.splice(0)) job.failed(error);
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  /** Copies up to `most` bytes of what is queued; returns how many. */
  #copy(most: number): number {
    const { data, capacity } = this.#ring;
    let copied = 0;
    while (copied < most) {
      const job = this.#jobs[0];
      if (!job) break;
      const piece = job.pieces[job.index];
      if (piece && job.at < piece.length) {
        const at = this.#head & (capacity - 1);
        const count = Math.min(piece.length - job.at, most - copied, capacity - at);
        data.set(piece.subarray(job.at, job.at + count), at);
        this.#head = (this.#head + count) >>> 0;
        job.at += count;
        copied += count;
        if (job.at < piece.length) continue;
      }
      job.at = 0;
      job.index += 1;
      if (job.index < job.pieces.length) continue;
      this.#jobs.shift();
      job.done();
    }
    this.#queuedBytes -= copied;
    return copied;
  }
}

/** The receiving end: hands on what is in the ring. */
export class RingReader {
  readonly #ring: Ring;
  readonly #ringBell: () => void;
  readonly #take: (bytes: Uint8Array) => void;
  readonly #broken: (reason: string) => void;
  #tail = 0;
  #again: NodeJS.Immediate | null = null;
  #busy = false;
  #ended = false;

  /** `take` gets the bytes, valid during the call; `ringBell` wakes the writer up; `broken`: this cannot be a ring. */
  constructor(
    memory: ArrayBuffer,
    on: { take(bytes: Uint8Array): void; ringBell(): void; broken(reason: string): void },
  ) {
    this.#ring = new Ring(memory);
    this.#take = on.take;
    this.#ringBell = on.ringBell;
    this.#broken = on.broken;
    Atomics.store(this.#ring.words, READER_SLEEPS, 1);
  }

  /**
   * Hands on what has come. Called when the writer rings, or before that by who waits. Returns whether all was taken:
   * otherwise a later turn of the event loop goes on by itself.
   */
  pump(): boolean {
    if (this.#busy || this.#ended) return true;
    if (this.#again) clearImmediate(this.#again);
    this.#again = null;
    this.#busy = true;
    const { words, data, capacity } = this.#ring;
    let turn = 0;
    while (!this.#ended) {
      const filled = (Atomics.load(words, HEAD) - this.#tail) >>> 0;
      if (filled > capacity) {
        this.end();
        this.#broken('its memory was overwritten by another process');
        break;
      }
      if (filled === 0) {
        Atomics.store(words, READER_SLEEPS, 1);
        if ((Atomics.load(words, HEAD) - this.#tail) >>> 0 === 0) break;
        Atomics.store(words, READER_SLEEPS, 0);
        continue;
      }
      if (turn >= TURN_BYTES) {
        this.#again = setImmediate(() => this.pump());
        break;
      }
      const at = this.#tail & (capacity - 1);
      const count = Math.min(filled, capacity - at, STRIDE);
      this.#take(data.subarray(at, at + count));
      if (this.#ended) break; // (What was taken may have ended the link.)
      turn += count;
      this.#tail = (this.#tail + count) >>> 0;
      Atomics.store(words, TAIL, this.#tail | 0);
      // Not for every crumb: the writer is woken when a quarter of the ring is free, or all that was there was read.
      if (Atomics.load(words, WRITER_SLEEPS) === 1) {
        const left = (Atomics.load(words, HEAD) - this.#tail) >>> 0;
        if (capacity - left >= capacity >> 2 && Atomics.exchange(words, WRITER_SLEEPS, 0) === 1) this.#ringBell();
      }
    }
    this.#busy = false;
    return this.#again === null;
  }

  /** Takes nothing more. The memory is not touched any more. */
  end(): void {
    this.#ended = true;
    if (this.#again) clearImmediate(this.#again);
    this.#again = null;
  }
}
