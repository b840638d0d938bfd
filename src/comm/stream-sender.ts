/** A piece of a stream on its way: bytes between room for what its carrier puts around them. */
export interface StreamSegment {
  /** Position of its first byte in the stream. */
  readonly offset: number;
  /** The carrier's `headBytes`, then the bytes, then its `tailBytes`. The carrier may read it until it is confirmed. */
  readonly buffer: Uint8Array;
  readonly length: number;
  /** Whether it was given to the carrier again: one of the two may still be on its way when it is confirmed. */
  readonly resent: boolean;
}

/** What a sender of a reliable stream needs from what carries its segments (which may lose them). */
export interface SegmentCarrier {
  /** Room that it wants before and behind the bytes of a segment. */
  readonly headBytes: number;
  readonly tailBytes: number;
  /** Bytes of stream that fit into one segment now. */
  maxSegmentBytes(): number;
  /** Whether it makes sense to send; if not, segments are kept until `resume`. */
  readonly up: boolean;
  segment(segment: StreamSegment): void;
  /** Asks the receiver what it has; everything before `offset` was sent. */
  probe(offset: number): void;
}

/** Writes up to this many bytes are copied at once and share a segment with others of the same turn. */
const SMALL_BYTES = 16_384;
/** Memory of segments with at least so many bytes is used again. */
const POOLED_BYTES = 4096;

interface Job {
  readonly pieces: readonly Uint8Array[];
  readonly done: () => void;
  readonly failed: (error: Error) => void;
  index: number;
  at: number;
}

/**
 * The sending end of a stream of bytes over a carrier that keeps order but may lose: what the receiver has not confirmed
 * is kept, at most `windowBytes` of it, and sent again from where the receiver says that something is missing (go-back-N;
 * a carrier that keeps order loses in runs, not here and there). Nothing else is copied: what does not fit the window
 * waits in the caller's memory.
 */
export class StreamSender {
  readonly #carrier: SegmentCarrier;
  readonly #windowBytes: number;
  readonly #probeMs: number;
  readonly #jobs: Job[] = [];
  /** Unconfirmed segments, oldest first. */
  #segments: StreamSegment[] = [];
  #confirmed = 0;
  #next = 0;
  #queuedBytes = 0;
  #resentBytes = 0;
  #resentFrom = -1;
  #resentWhen = 0;
  #scheduled = false;
  #timer: ReturnType<typeof setInterval> | null = null;
  #ended: Error | null = null;
  #idle: (() => void)[] = [];
  /** Memory of confirmed segments by length. */
  readonly #pool = new Map<number, Uint8Array[]>();
  #pooledBytes = 0;

  constructor(carrier: SegmentCarrier, options: { readonly windowBytes: number; readonly probeMs: number }) {
    this.#carrier = carrier;
    this.#windowBytes = options.windowBytes;
    this.#probeMs = options.probeMs;
  }

  /** Bytes that were sent again. */
  get resentBytes(): number {
    return this.#resentBytes;
  }

  /** Bytes that are kept because the receiver has not confirmed them. */
  get unconfirmedBytes(): number {
    return this.#next - this.#confirmed;
  }

  /** Appends pieces to the stream. Resolves when all were copied (at once if they fit the window). */
  write(given: readonly Uint8Array[]): Promise<void> | undefined {
    if (this.#ended) return Promise.reject(this.#ended);
    const pieces = given.filter(({ length }) => length > 0);
    if (pieces.length === 0) return undefined;
    let bytes = 0;
    for (const piece of pieces) bytes += piece.length;
    const small = bytes <= SMALL_BYTES && this.unconfirmedBytes + this.#queuedBytes + bytes <= this.#windowBytes;
    this.#queuedBytes += bytes;
    if (small) {
      this.#jobs.push({ pieces: [Buffer.concat(pieces, bytes)], index: 0, at: 0, done: () => {}, failed: () => {} });
      this.#soon();
      return undefined;
    }
    let finished = false;
    let done = () => {
      finished = true;
    };
    let failed: (error: Error) => void = () => undefined;
    const job: Job = { pieces, index: 0, at: 0, done: () => done(), failed: (error) => failed(error) };
    this.#jobs.push(job);
    this.#pump(true);
    if (finished) return undefined;
    return new Promise((resolve, reject) => {
      done = resolve;
      failed = reject;
    });
  }

  /**
   * The receiver has everything before `offset`; with `lost` it does not have what was sent after it. Returns false if
   * that cannot be.
   */
  confirm(offset: number, lost: boolean): boolean {
    if (offset > this.#next) return false;
    if (offset > this.#confirmed) {
      this.#confirmed = offset;
      let gone = 0;
      for (const { offset: start, length } of this.#segments) {
        if (start + length > offset) break;
        gone += 1;
      }
      for (const segment of this.#segments.splice(0, gone)) this.#recycle(segment);
    }
    // (What was sent again a moment ago is still under way.)
    const asked = lost && offset === this.#confirmed;
    if (asked && !(offset === this.#resentFrom && performance.now() - this.#resentWhen < this.#probeMs / 2))
      this.resend();
    this.#pump();
    return true;
  }

  /** Sends everything unconfirmed again: the carrier is up again, or the receiver asks for it. */
  resend(): void {
    if (!this.#carrier.up) return;
    this.#resentFrom = this.#confirmed;
    this.#resentWhen = performance.now();
    const most = this.#carrier.maxSegmentBytes();
    // The carrier's limit may have shrunk since.
    this.#segments = this.#segments.flatMap((segment) => this.#split(segment, most));
    for (const segment of this.#segments) {
      this.#resentBytes += segment.length;
      this.#carrier.segment(segment);
    }
    this.#pump();
  }

  /** Resolves when everything was confirmed, or after `end`. */
  drained(): Promise<void> {
    if (this.#ended || (this.#jobs.length === 0 && this.unconfirmedBytes === 0)) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  /** Fails what waits and frees what is kept. */
  end(error: Error): void {
    if (this.#ended) return;
    this.#ended = error;
    if (this.#timer) clearInterval(this.#timer);
    for (const job of this.#jobs.splice(0)) job.failed(error);
    this.#segments = [];
    this.#pool.clear();
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  /** Sends when all that can run now has run: whoever writes in a loop writes more before that. */
  #soon(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    process.nextTick(() => {
      this.#scheduled = false;
      if (!this.#ended) this.#pump();
    });
  }

  /** Sends what fits the window; with `more`, a small rest waits for what else this turn has to say. */
  #pump(more = false): void {
    while (this.#queuedBytes > 0) {
      const most = this.#carrier.maxSegmentBytes();
      const wanted = Math.min(this.#queuedBytes, most);
      const room = this.unconfirmedBytes + wanted <= this.#windowBytes;
      if (more && room && wanted < most && wanted <= SMALL_BYTES) {
        this.#adopt();
        this.#soon();
        break;
      }
      const free = this.#windowBytes - this.unconfirmedBytes;
      // Not in crumbs: a segment waits for the room that it deserves.
      if (free < Math.min(wanted, this.#windowBytes >> 2)) break;
      this.#emit(Math.min(wanted, free));
    }
    this.#watch();
    if (this.#jobs.length === 0 && this.unconfirmedBytes === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }

  /** Copies the small rest that is queued, so that whoever wrote it can go on. */
  #adopt(): void {
    const rest = new Uint8Array(this.#queuedBytes);
    let filled = 0;
    for (const { pieces, index, at } of this.#jobs)
      for (let i = index; i < pieces.length; i++) {
        const piece = pieces[i] as Uint8Array;
        const left = i === index ? piece.subarray(at) : piece;
        rest.set(left, filled);
        filled += left.length;
      }
    for (const job of this.#jobs.splice(0)) job.done();
    this.#jobs.push({ pieces: [rest], index: 0, at: 0, done: () => {}, failed: () => {} });
  }

  /** Copies the next `length` bytes into a segment and sends it. */
  #emit(length: number): void {
    const buffer = this.#buffer(length);
    const { headBytes } = this.#carrier;
    let filled = 0;
    while (filled < length) {
      const job = this.#jobs[0] as Job;
      const piece = job.pieces[job.index] as Uint8Array;
      const count = Math.min(piece.length - job.at, length - filled);
      buffer.set(count === piece.length ? piece : piece.subarray(job.at, job.at + count), headBytes + filled);
      filled += count;
      job.at += count;
      if (job.at < piece.length) continue;
      job.at = 0;
      job.index += 1;
      if (job.index < job.pieces.length) continue;
      this.#jobs.shift();
      job.done();
    }
    const segment = { offset: this.#next, buffer, length, resent: false };
    this.#next += length;
    this.#queuedBytes -= length;
    this.#segments.push(segment);
    if (this.#carrier.up) this.#carrier.segment(segment);
  }

  /** Asks at intervals for as long as something is unconfirmed: the last segment, or its confirmation, may be lost. */
  #watch(): void {
    if (this.unconfirmedBytes === 0 || this.#ended) {
      if (this.#timer) clearInterval(this.#timer);
      this.#timer = null;
      return;
    }
    this.#timer ??= setInterval(() => {
      if (this.#carrier.up) this.#carrier.probe(this.#next);
    }, this.#probeMs);
  }

  /** Memory for a segment: of a confirmed one, if any is large enough for it. */
  #buffer(length: number): Uint8Array {
    const { headBytes, tailBytes } = this.#carrier;
    const room = headBytes + tailBytes;
    const most = this.#carrier.maxSegmentBytes();
    // (Powers of two, so that lengths that vary find each other's memory.)
    const capacity = room + Math.min(most, Math.max(POOLED_BYTES, 2 ** Math.ceil(Math.log2(length))));
    if (length < POOLED_BYTES) return new Uint8Array(room + length);
    const free = this.#pool.get(capacity)?.pop();
    if (free) this.#pooledBytes -= capacity;
    return free ?? new Uint8Array(capacity);
  }

  #recycle({ buffer, resent }: StreamSegment): void {
    const { length } = buffer;
    if (resent || length < POOLED_BYTES || this.#pooledBytes + length > this.#windowBytes) return;
    const free = this.#pool.get(length);
    if (free) free.push(buffer);
    else this.#pool.set(length, [buffer]);
    this.#pooledBytes += length;
  }

  #split(segment: StreamSegment, most: number): StreamSegment[] {
    const { offset, length } = segment;
    if (length <= most) return [{ ...segment, resent: true }];
    const { headBytes, tailBytes } = this.#carrier;
    const parts: StreamSegment[] = [];
    for (let at = 0; at < length; at += most) {
      const count = Math.min(most, length - at);
      const buffer = new Uint8Array(headBytes + count + tailBytes);
      buffer.set(segment.buffer.subarray(headBytes + at, headBytes + at + count), headBytes);
      parts.push({ offset: offset + at, buffer, length: count, resent: true });
    }
    return parts;
  }
}
