/** What a receiver of a reliable stream needs. */
export interface StreamSink {
  /** The next bytes of the stream, valid during the call. */
  bytes(bytes: Uint8Array): void;
  /** Tell the sender what is here; `lost`: what it sent after that is not. */
  confirm(offset: number, lost: boolean): void;
}

/** The receiving end: takes segments in order, ignores what it has already, asks for what was lost. */
export class StreamReceiver {
  readonly #sink: StreamSink;
  readonly #confirmEvery: number;
  readonly #confirmMs: number;
  #expected = 0;
  #confirmed = 0;
  /** Position at which something is missing and was asked for, or -1. */
  #asked = -1;
  #timer: ReturnType<typeof setTimeout> | null = null;
  #ended = false;
  #repeated = 0;

  constructor(sink: StreamSink, options: { readonly windowBytes: number; readonly confirmMs: number }) {
    this.#sink = sink;
    this.#confirmEvery = options.windowBytes >> 2;
    this.#confirmMs = options.confirmMs;
  }

  /** Segments that brought nothing: they had come before, or came after a gap. */
  get repeated(): number {
    return this.#repeated;
  }

  segment(offset: number, bytes: Uint8Array): void {
    if (this.#ended) return;
    if (offset > this.#expected) {
      this.#repeated += 1;
      if (this.#asked !== this.#expected) this.#confirm(true);
      return;
    }
    if (offset + bytes.length <= this.#expected) {
      this.#repeated += 1;
      this.#later();
      return;
    }
    const fresh = bytes.subarray(this.#expected - offset);
    this.#expected = offset + bytes.length;
    this.#sink.bytes(fresh);
    if (this.#expected - this.#confirmed >= this.#confirmEvery) this.#confirm(false);
    else this.#later();
  }

  /** The sender asks; it has sent everything before `offset`. */
  probe(offset: number): void {
    if (!this.#ended) this.#confirm(offset > this.#expected);
  }

  /** Asks for whatever was lost on the way, after the carrier was down. */
  resume(): void {
    if (!this.#ended) this.#confirm(false);
  }

  /** Confirms what it has not confirmed yet, so that the sender need not wait for it, and takes nothing more. */
  end(): void {
    if (!this.#ended && this.#timer) this.#confirm(false);
    this.#ended = true;
  }

  #confirm(lost: boolean): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    this.#confirmed = this.#expected;
    this.#asked = lost ? this.#expected : -1;
    this.#sink.confirm(this.#expected, lost);
  }

  /** Confirms soon, so that the sender can free its memory. */
  #later(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#confirm(false);
    }, this.#confirmMs);
  }
}
