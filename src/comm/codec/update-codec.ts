import { CommProtocolError } from '../errors.ts';
import { codecNamed, type DenseCodecName } from './codec.ts';
import { keptOf, runLength, seededPositions } from './positions.ts';
import { fromSigns, signBytes, toSigns } from './sign.ts';
import { keepTop } from './top-k.ts';
import { readVarint, varintBytes, writeVarint } from './varint.ts';

/** How values are written: as they are, rounded, or as signs with a scale for each 1024. */
export type ValueCodecName = 'f32' | DenseCodecName | 'sign';

/** What is written of an update. */
export type UpdateCodecOptions =
  /** All values. */
  | { readonly keep: 'all'; readonly values: ValueCodecName }
  /** The share `ratio` of the largest magnitudes, with their positions. */
  | { readonly keep: 'top'; readonly ratio: number; readonly values: ValueCodecName }
  /**
   * A share `ratio` at positions that both ends draw from a seed. `unbiased`: each value is divided by its chance to be
   * drawn, so that the expectation over seeds is the update; without it the values themselves come out.
   */
  | { readonly keep: 'random'; readonly ratio: number; readonly values: ValueCodecName; readonly unbiased: boolean };

/** Writes the update of a client as few bytes: for a sender who may keep the error for its next update. */
export interface UpdateCodec {
  /** Bytes of so many elements: exact, or for `top`, whose positions take more or less room, an estimate. */
  typicalBytes(elements: number): number;
  /** Fresh bytes, the same for the same arguments. `seed` (below 2^32) draws positions, where they are random. */
  encode(values: Float32Array, seed: number): Uint8Array;
  /** Fills `out`; what was not kept becomes 0. `bytes` is aligned to 4. @throws CommProtocolError if they make no sense */
  decode(bytes: Uint8Array, out: Float32Array): void;
}

/** @throws RangeError on a ratio that is not above 0 and at most 1 */
export function updateCodec(options: UpdateCodecOptions): UpdateCodec {
  const written = valueCodec(options.values);
  if (options.keep === 'all') return whole(written);
  if (!(options.ratio > 0 && options.ratio <= 1))
    throw new RangeError(`a codec of updates keeps a ratio above 0 and up to 1, not ${options.ratio}`);
  return options.keep === 'top'
    ? top(options.ratio, written)
    : random(options.ratio, written, { unbiased: options.unbiased });
}

/**
 * Sends an update and keeps the error (error feedback: Stich, Cordonnier and Jaggi 2018, arXiv 1809.07599; Karimireddy et al.
 * 2019, arXiv 1901.09847): what earlier updates left out is added, and `values` become what the receiver decodes. Returns
 * the bytes, and what is left out now.
 * @param left what was left out before; null where errors are not kept
 */
export function sendUpdate(
  codec: UpdateCodec,
  values: Float32Array,
  { seed, left }: { readonly seed: number; readonly left: Float32Array | null },
): { readonly bytes: Uint8Array; readonly left: Float32Array | null } {
  if (left && left.length !== values.length)
    throw new RangeError(`an update of ${values.length} values cannot take in errors of ${left.length}`);
  if (left) for (let i = 0; i < values.length; i++) values[i] = (values[i] as number) + (left[i] as number);
  const bytes = codec.encode(values, seed);
  const error = left && values.slice();
  codec.decode(bytes, values);
  if (error) for (let i = 0; i < error.length; i++) error[i] = (error[i] as number) - (values[i] as number);
  return { bytes, left: error };
}

/** Writes lists of values of known length. */
interface ValueCodec {
  bytes(elements: number): number;
  write(values: Float32Array, out: Uint8Array): void;
  read(bytes: Uint8Array, out: Float32Array): void;
}

function valueCodec(name: ValueCodecName): ValueCodec {
  if (name === 'sign') return { bytes: signBytes, write: toSigns, read: fromSigns };
  if (name === 'f32') {
    const words = (bytes: Uint8Array, length: number) => new Int32Array(bytes.buffer, bytes.byteOffset, length);
    // As integers: a number that is not one keeps its bits.
    return {
      bytes: (elements) => 4 * elements,
      write: (values, out) => words(out, values.length).set(bitsOf(values)),
      read: (bytes, out) => bitsOf(out).set(words(bytes, out.length)),
    };
  }
  const codec = codecNamed(name);
  // (What these codecs write depends on the number of values alone.)
  return {
    bytes: (elements) => codec.encodedBytes({ length: elements } as Float32Array),
    write: (values, out) => codec.encode(values, out),
    read: (bytes, out) => codec.decode(bytes, out),
  };
}

const bitsOf = (values: Float32Array) => new Int32Array(values.buffer, values.byteOffset, values.length);

/** The values alone. */
function whole(written: ValueCodec): UpdateCodec {
  return {
    typicalBytes: written.bytes,
    encode: (values) => {
      const out = new Uint8Array(written.bytes(values.length));
      written.write(values, out);
      return out;
    },
    decode: (bytes, out) => {
      expectBytes(bytes, written.bytes(out.length), out.length);
      written.read(bytes, out);
    },
  };
}

/** u32 count, the values, and for each the number of elements left out before it (LEB128). */
function top(ratio: number, written: ValueCodec): UpdateCodec {
  return {
    typicalBytes: (elements) => {
      const kept = keptOf(elements, ratio);
      return 4 + written.bytes(kept) + kept * varintBytes(Math.round(elements / Math.max(1, kept)));
    },
    encode: (values) => {
      const kept = values.slice();
      keepTop(kept, keptOf(values.length, ratio), new Float32Array(values.length));
      const bits = bitsOf(kept);
      const positions = new Int32Array(keptOf(values.length, ratio));
      let count = 0;
      // (Zeros among the largest need not be written.)
      for (let i = 0; i < bits.length; i++) if (bits[i] !== 0) positions[count++] = i;
      const list = Float32Array.from(positions.subarray(0, count), (at) => kept[at] as number);
      let length = 4 + written.bytes(count);
      for (let n = 0; n < count; n++) length += varintBytes(gapAt(positions, n));
      const out = new Uint8Array(length);
      new Uint32Array(out.buffer, 0, 1)[0] = count;
      written.write(list, out.subarray(4));
      let at = 4 + written.bytes(count);
      for (let n = 0; n < count; n++) at = writeVarint(gapAt(positions, n), out, at);
      return out;
    },
    decode: (bytes, out) => {
      const count = bytes.length < 4 ? -1 : (new Uint32Array(bytes.buffer, bytes.byteOffset, 1)[0] as number);
      if (count < 0 || count > out.length) throw damaged(bytes, out);
      const list = new Float32Array(count);
      let at = 4 + written.bytes(count);
      if (bytes.length < at + count) throw damaged(bytes, out);
      written.read(bytes.subarray(4, at), list);
      out.fill(0);
      let index = -1;
      for (let n = 0; n < count; n++) {
        const gap = readVarint(bytes, at);
        if (!gap) throw damaged(bytes, out);
        at = gap.next;
        index += gap.value + 1;
        if (index >= out.length) throw damaged(bytes, out);
        out[index] = list[n] as number;
      }
      if (at !== bytes.length) throw damaged(bytes, out);
    },
  };
}

function gapAt(positions: Int32Array, n: number): number {
  return (positions[n] as number) - (n === 0 ? -1 : (positions[n - 1] as number)) - 1;
}

/** u32 seed, and the values at the positions that it draws. */
function random(ratio: number, written: ValueCodec, { unbiased }: { readonly unbiased: boolean }): UpdateCodec {
  return {
    typicalBytes: (elements) => 4 + written.bytes(keptOf(elements, ratio)),
    encode: (values, seed) => {
      const positions = seededPositions(values.length, keptOf(values.length, ratio), seed);
      const out = new Uint8Array(4 + written.bytes(positions.length));
      new Uint32Array(out.buffer, 0, 1)[0] = seed;
      const list = Float32Array.from(positions, (at) => values[at] as number);
      written.write(list, out.subarray(4));
      return out;
    },
    decode: (bytes, out) => {
      const kept = keptOf(out.length, ratio);
      expectBytes(bytes, 4 + written.bytes(kept), out.length);
      const seed = new Uint32Array(bytes.buffer, bytes.byteOffset, 1)[0] as number;
      const list = new Float32Array(kept);
      written.read(bytes.subarray(4), list);
      out.fill(0);
      for (const [i, at] of seededPositions(out.length, kept, seed).entries())
        out[at] = (list[i] as number) * (unbiased ? runLength(out.length, kept, i) : 1);
    },
  };
}

function expectBytes(bytes: Uint8Array, expected: number, elements: number): void {
  if (bytes.length !== expected)
    throw new CommProtocolError(
      `an update of ${elements} values takes ${expected} bytes with this codec, but ${bytes.length} came`,
    );
}

function damaged(bytes: Uint8Array, out: Float32Array): CommProtocolError {
  return new CommProtocolError(
    `${bytes.length} bytes that came are not the largest of ${out.length} values and their places`,
  );
}
