import {
  fromBfloat16,
  fromBlockInt8,
  fromFloat16,
  INT8_BLOCK,
  int8Blocks,
  toBfloat16,
  toBlockInt8,
  toFloat16,
} from '../../tensor/index.ts';
import { CommProtocolError } from '../errors.ts';
import { fromSparse, sparseBytes, toSparse } from './sparse.ts';

/**
 * How float32 values are written as fewer bytes. Encoding what was decoded gives the same values again, to the bit: a
 * value that has gone through a codec once can be sent any number of times without changing further.
 */
export interface Codec {
  readonly name: CodecName;
  /** Whether values can change. */
  readonly lossy: boolean;
  /** Bytes that `encode` writes; for `sparse` they depend on the values. A multiple of 4 is not guaranteed. */
  encodedBytes(values: Float32Array): number;
  /** Writes `encodedBytes(values)` bytes from the start of `out`, which is aligned to 4 bytes. */
  encode(values: Float32Array, out: Uint8Array): void;
  /** Fills `out` from the bytes that so many values were encoded to; `bytes` is aligned to 4 bytes. */
  decode(bytes: Uint8Array, out: Float32Array): void;
}

/** Codecs that change values by rounding, one by one or in blocks. */
export type DenseCodecName = 'f16' | 'bf16' | 'int8';

/** All codecs of the wire. `sparse` keeps every value but writes only those that are not zero. */
export type CodecName = DenseCodecName | 'sparse';

const u16 = (bytes: Uint8Array, length: number) => new Uint16Array(bytes.buffer, bytes.byteOffset, length);

function half(
  name: DenseCodecName,
  to: (values: Float32Array, out: Uint16Array) => unknown,
  from: (patterns: Uint16Array, out: Float32Array) => unknown,
): Codec {
  return {
    name,
    lossy: true,
    encodedBytes: ({ length }) => 2 * length,
    encode: (values, out) => {
      to(values, u16(out, values.length));
    },
    decode: (bytes, out) => {
      expectBytes(name, bytes, 2 * out.length, out.length);
      from(u16(bytes, out.length), out);
    },
  };
}

/** The largest magnitudes of the blocks, then one byte a value. */
const int8: Codec = {
  name: 'int8',
  lossy: true,
  encodedBytes: ({ length }) => 4 * int8Blocks(length) + length,
  encode: (values, out) => {
    const blocks = int8Blocks(values.length);
    toBlockInt8(
      values,
      new Int8Array(out.buffer, out.byteOffset + 4 * blocks, values.length),
      new Float32Array(out.buffer, out.byteOffset, blocks),
    );
  },
  decode: (bytes, out) => {
    const blocks = int8Blocks(out.length);
    expectBytes('int8', bytes, 4 * blocks + out.length, out.length);
    fromBlockInt8(
      new Int8Array(bytes.buffer, bytes.byteOffset + 4 * blocks, out.length),
      new Float32Array(bytes.buffer, bytes.byteOffset, blocks),
      out,
    );
  },
};

const sparse: Codec = {
  name: 'sparse',
  lossy: false,
  encodedBytes: sparseBytes,
  encode: toSparse,
  decode: fromSparse,
};

const CODECS: Readonly<Record<CodecName, Codec>> = {
  f16: half('f16', toFloat16, fromFloat16),
  bf16: half('bf16', toBfloat16, fromBfloat16),
  int8,
  sparse,
};

/** Names of the codecs; their positions are what messages carry. */
export const CODEC_NAMES = ['f16', 'bf16', 'int8', 'sparse'] as const satisfies readonly CodecName[];

/** Elements that an error in one of them can reach: the blocks of `int8`. */
export const CODEC_BLOCK = INT8_BLOCK;

export function codecNamed(name: CodecName): Codec {
  return CODECS[name];
}

function expectBytes(name: string, bytes: Uint8Array, expected: number, elements: number): void {
  if (bytes.length !== expected)
    throw new CommProtocolError(
      `${elements} values encoded as ${name} take ${expected} bytes, but ${bytes.length} came`,
    );
}
