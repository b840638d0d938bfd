import { allocate, bytesOf, type HostTensor, sizeOf, type TypedArray } from '../tensor/index.ts';
import {
  checksum,
  FIXED_HEADER_BYTES,
  type FrameDecoder,
  type FrameFault,
  type FrameHeader,
  MAX_HEADER_BYTES,
} from './frame.ts';
import { scratch } from './scratch.ts';

/** What a reader hands on. */
export interface FrameSink {
  message(tag: string, tensors: readonly HostTensor[]): void;
  credit(channel: string, count: number): void;
  /** The peer said good-bye. */
  goodbye(reason: string): void;
  /** A frame that cannot be used: the stream has lost its thread, and the reader ignores the rest of it. */
  fault(fault: FrameFault, detail: string): void;
}

/** Where small frames land before they are taken apart; larger data is read straight into its tensor. */
const STAGING_BYTES = 32_768;

/**
 * Takes frames out of a stream of bytes whose order is right. A socket asks `target()` where the next bytes belong, so
 * that a tensor's data goes from the kernel straight into the tensor's memory, and says with `advance()` how many came.
 */
export class FrameReader {
  readonly #decoder: FrameDecoder;
  readonly #sink: FrameSink;
  readonly #header = new Uint8Array(MAX_HEADER_BYTES);
  readonly #staging = new Uint8Array(STAGING_BYTES);
  #headerFilled = 0;
  #headerNeeded = FIXED_HEADER_BYTES;
  #frame: FrameHeader | null = null;
  /** The tensor that is being filled. */
  #data: TypedArray | null = null;
  #bytes: Uint8Array | null = null;
  #filled = 0;
  #checksum = 0;
  #parts: HostTensor[] = [];
  #nextSequence = 0;
  #direct = false;
  #dead = false;

  constructor(decoder: FrameDecoder, sink: FrameSink) {
    this.#decoder = decoder;
    this.#sink = sink;
  }

  /** Where the next bytes belong. Valid until the next call of this reader. */
  target(): Uint8Array {
    const bytes = this.#bytes;
    this.#direct = bytes !== null && bytes.length - this.#filled > STAGING_BYTES / 2;
    return this.#direct ? (bytes as Uint8Array).subarray(this.#filled) : this.#staging;
  }

  /** `count` bytes were put where `target()` said. */
  advance(count: number): void {
    const filled = this.#filled;
    if (this.#direct)
      this.#guarded(() => this.#dataArrived((this.#bytes as Uint8Array).subarray(filled, filled + count)));
    else this.write(this.#staging.subarray(0, count));
  }

  /** The next bytes, which are copied. */
  write(bytes: Uint8Array): void {
    this.#guarded(() => this.#parse(bytes));
  }

  #parse(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length && !this.#dead) {
      if (!this.#frame) {
        const count = Math.min(bytes.length - at, this.#headerNeeded - this.#headerFilled);
        this.#header.set(bytes.subarray(at, at + count), this.#headerFilled);
        this.#headerFilled += count;
        at += count;
        if (this.#headerFilled === this.#headerNeeded) this.#headerArrived();
      } else {
        const count = Math.min(bytes.length - at, this.#frame.dataBytes - this.#filled);
        const piece = bytes.subarray(at, at + count);
        this.#bytes?.set(piece, this.#filled);
        this.#dataArrived(piece);
        at += count;
      }
    }
  }

  #headerArrived(): void {
    const header = this.#header.subarray(0, this.#headerFilled);
    if (this.#headerFilled === FIXED_HEADER_BYTES) {
      const needed = this.#decoder.headerBytes(header);
      if (typeof needed === 'string') throw new Unusable(needed, 'the stream does not go on with a frame');
      if (needed > this.#headerFilled) {
        this.#headerNeeded = needed;
        return;
      }
    }
    const frame = this.#decoder.decode(header);
    if (typeof frame === 'string') throw new Unusable(frame, 'a header that cannot be used');
    this.#headerFilled = 0;
    this.#headerNeeded = FIXED_HEADER_BYTES;
    if (frame.sequence !== this.#nextSequence)
      throw new Unusable('corrupt', `frame ${frame.sequence} came where frame ${this.#nextSequence} was due`);
    this.#nextSequence += 1;
    switch (frame.kind) {
      case 'data':
        if (frame.part !== this.#parts.length)
          throw new Unusable(
            'corrupt',
            `part ${frame.part} of "${frame.tag}" came where ${this.#parts.length} was due`,
          );
        if (frame.parts === 0) {
          this.#sink.message(frame.tag, []);
          return;
        }
        this.#data =
          frame.pooled && frame.dtype === 'float32'
            ? scratch.take(sizeOf(frame.shape))
            : allocate(frame.dtype, sizeOf(frame.shape));
        this.#bytes = bytesOf(this.#data);
        this.#frame = frame;
        this.#filled = 0;
        this.#checksum = 0;
        if (frame.dataBytes === 0) this.#dataArrived(this.#bytes);
        return;
      case 'credit':
        this.#sink.credit(frame.tag, frame.value);
        return;
      case 'close':
        this.#sink.goodbye(frame.tag);
        return;
      default:
        throw new Unusable('corrupt', `a frame of kind "${frame.kind}" has no place in a stream`);
    }
  }

  #dataArrived(piece: Uint8Array): void {
    const frame = this.#frame as FrameHeader;
    // (Bytes are looked at while they are still in the cache.)
    if (frame.dataChecksum !== null) this.#checksum = checksum(piece, this.#checksum);
    this.#filled += piece.length;
    if (this.#filled < frame.dataBytes) return;
    const { tag, dtype, shape, parts, dataChecksum } = frame;
    const data = this.#data as TypedArray;
    this.#frame = null;
    this.#data = null;
    this.#bytes = null;
    if (dataChecksum !== null && dataChecksum !== this.#checksum)
      throw new Unusable('corrupt', `the data of "${tag}" does not have its checksum`);
    this.#parts.push({ dtype, shape, data });
    if (this.#parts.length < parts) return;
    const tensors = this.#parts;
    this.#parts = [];
    this.#sink.message(tag, tensors);
  }

  /** Runs a step of taking the stream apart; what is wrong with the stream ends it, other errors are not caught. */
  #guarded(step: () => void): void {
    try {
      step();
    } catch (error) {
      if (!(error instanceof Unusable)) throw error;
      this.#dead = true;
      this.#sink.fault(error.fault, error.message);
    }
  }
}

class Unusable extends Error {
  readonly fault: FrameFault;

  constructor(fault: FrameFault, detail: string) {
    super(detail);
    this.fault = fault;
  }
}
