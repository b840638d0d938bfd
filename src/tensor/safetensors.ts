import { bytesOf } from './hash.ts';
import {
  allocate,
  byteLengthOf,
  bytesPerElement,
  type DType,
  type HostTensor,
  sizeOf,
  type TensorSpec,
} from './host-tensor.ts';
import { type FlatTree, pathsInOrder } from './tree.ts';

/**
 * The safetensors format (https://huggingface.co/docs/safetensors): eight bytes of little-endian header length, a JSON
 * header padded with spaces so that the data starts at a multiple of eight, then the tensors' raw little-endian data
 * without gaps.
 */

/** A file or buffer that is not a valid safetensors file, or not the one expected. */
export class SafetensorsError extends Error {
  override readonly name = 'SafetensorsError';
}

/** Free-form strings stored in the header. */
export type SafetensorsMetadata = Readonly<Record<string, string>>;

/** Where a tensor lies: byte offsets from the start of the data. */
export interface SafetensorsEntry extends TensorSpec {
  readonly start: number;
  readonly end: number;
}

/** A parsed and validated header. */
export interface SafetensorsHeader {
  readonly entries: FlatTree<SafetensorsEntry>;
  readonly metadata: SafetensorsMetadata;
  /** Bytes before the data: eight and the header's length. */
  readonly dataStart: number;
}

const NAME_OF: Readonly<Record<DType, string>> = {
  float32: 'F32',
  float16: 'F16',
  bfloat16: 'BF16',
  int32: 'I32',
  int64: 'I64',
  uint8: 'U8',
  int8: 'I8',
  bool: 'BOOL',
};
const DTYPE_OF: ReadonlyMap<unknown, DType> = new Map(
  Object.entries(NAME_OF).map(([dtype, name]) => [name, dtype as DType]),
);
const MAX_HEADER_BYTES = 100_000_000;
const METADATA = '__metadata__';

/**
 * The header for tensors of these specs, and the order in which their data must follow: wide elements first (so that
 * every tensor is aligned to its element size), then by path. Same layout as the reference implementation.
 */
export function encodeHeader(
  specs: FlatTree<TensorSpec>,
  metadata: SafetensorsMetadata = {},
): { readonly bytes: Uint8Array; readonly order: readonly string[] } {
  const order = pathsInOrder(Object.keys(specs)).sort(
    (a, b) => bytesPerElement((specs[b] as TensorSpec).dtype) - bytesPerElement((specs[a] as TensorSpec).dtype),
  );
  // Built from entries on a null prototype, so that a tensor called `__proto__` is a name like any other.
  const header: Record<string, unknown> = Object.create(null);
  if (Object.keys(metadata).length > 0) header[METADATA] = metadata;
  let offset = 0;
  for (const path of order) {
    if (path === METADATA) throw new SafetensorsError(`a tensor cannot be called ${METADATA}: the format reserves it`);
    const spec = specs[path] as TensorSpec;
    const end = offset + byteLengthOf(spec);
    header[path] = { dtype: NAME_OF[spec.dtype], shape: spec.shape, data_offsets: [offset, end] };
    offset = end;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const padded = Math.ceil(json.length / 8) * 8;
  const bytes = new Uint8Array(8 + padded).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(padded), true);
  bytes.set(json, 8);
  return { bytes, order };
}

/**
 * The header's length from the first eight bytes of a file of `fileBytes` bytes.
 * @throws SafetensorsError if the file cannot hold such a header.
 */
export function headerLength(prefix: Uint8Array, fileBytes: number, file: string): number {
  if (prefix.length < 8)
    throw new SafetensorsError(
      `${file}: expected a safetensors file, which has at least 8 bytes, found ${prefix.length}; was writing interrupted?`,
    );
  const length = Number(new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true));
  if (length > MAX_HEADER_BYTES)
    throw new SafetensorsError(
      `${file}: the header would be ${length} bytes long, but at most ${MAX_HEADER_BYTES} are allowed; is it a safetensors file?`,
    );
  if (8 + length > fileBytes)
    throw new SafetensorsError(
      `${file}: the header ends at byte ${8 + length}, but the file has ${fileBytes}: it is truncated or not a safetensors file`,
    );
  return length;
}

/**
 * Parses a header (the JSON part) and checks it against the number of data bytes that follow: known dtypes, sizes that
 * fit shapes, no overlap, no gap, nothing missing at the end.
 * @throws SafetensorsError naming the file, the tensor, what was expected and what was found.
 */
export function parseHeader(json: Uint8Array, dataBytes: number, file: string): SafetensorsHeader {
  const fail = (message: string): never => {
    throw new SafetensorsError(`${file}: ${message}`);
  };
  if (json[0] !== 0x7b) fail(`the header must begin with '{' (0x7b), found ${hex(json[0])}; is it a safetensors file?`);
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(json));
  } catch (error) {
    fail(`the header is not valid JSON (${error instanceof Error ? error.message : String(error)})`);
  }
  const metadata: Record<string, string> = {};
  const entries: Record<string, SafetensorsEntry> = Object.create(null);
  for (const [name, value] of Object.entries(parsed as object)) {
    if (name === METADATA) {
      if (!isRecord(value)) fail(`${METADATA} must be an object of strings, found ${show(value)}`);
      for (const [key, text] of Object.entries(value as object)) {
        if (typeof text !== 'string') fail(`${METADATA}.${key} must be a string, found ${show(text)}`);
        metadata[key] = text as string;
      }
    } else entries[name] = parseEntry(name, value, fail);
  }
  let expected = 0;
  const byStart = Object.entries(entries).sort(([, a], [, b]) => a.start - b.start || a.end - b.end);
  for (const [name, entry] of byStart) {
    if (entry.start < expected)
      fail(
        `tensor '${name}' overlaps the one before it: expected it to start at byte ${expected}, found ${entry.start}`,
      );
    if (entry.start > expected)
      fail(`bytes ${expected} to ${entry.start} before tensor '${name}' belong to no tensor, which the format forbids`);
    expected = entry.end;
  }
  if (expected > dataBytes)
    fail(`the header describes ${expected} bytes of data, but ${dataBytes} follow it: the file is truncated`);
  if (expected < dataBytes)
    fail(
      `the header describes ${expected} bytes of data, but ${dataBytes} follow it: the file was appended to or is corrupt`,
    );
  return { entries, metadata, dataStart: 8 + json.length };
}

function parseEntry(name: string, value: unknown, fail: (message: string) => never): SafetensorsEntry {
  if (!isRecord(value)) return fail(`tensor '${name}' must be described by an object, found ${show(value)}`);
  const { dtype: dtypeName, shape, data_offsets: offsets } = value;
  const dtype = DTYPE_OF.get(dtypeName);
  if (dtype === undefined)
    return fail(`tensor '${name}' has dtype ${show(dtypeName)}; supported are ${[...DTYPE_OF.keys()].join(', ')}`);
  if (!isSizes(shape)) return fail(`tensor '${name}' must have a list of sizes as shape, found ${show(shape)}`);
  if (!isSizes(offsets) || offsets.length !== 2)
    return fail(`tensor '${name}' must have data_offsets [start, end], found ${show(offsets)}`);
  const [start, end] = offsets as [number, number];
  const bytes = byteLengthOf({ dtype, shape });
  if (end - start !== bytes)
    return fail(
      `tensor '${name}' of dtype ${NAME_OF[dtype]} and shape [${shape}] takes ${bytes} bytes, but its data_offsets [${offsets}] span ${end - start}`,
    );
  return { dtype, shape, start, end };
}

/** Encodes tensors into one buffer. For anything large use `writeSafetensors`, which streams. */
export function encodeSafetensors(tensors: FlatTree<HostTensor>, metadata: SafetensorsMetadata = {}): Uint8Array {
  const { bytes: header, order } = encodeHeader(tensors, metadata);
  const sizes = order.map((path) => byteLengthOf(tensors[path] as HostTensor));
  const out = new Uint8Array(header.length + sizes.reduce((a, b) => a + b, 0));
  out.set(header);
  let offset = header.length;
  for (const [i, path] of order.entries()) {
    out.set(dataBytesOf(path, tensors[path] as HostTensor), offset);
    offset += sizes[i] as number;
  }
  return out;
}

/**
 * Decodes a whole file in memory; tensors get memory of their own. `file` is the name used in errors.
 * @throws SafetensorsError on a buffer that is not a valid safetensors file.
 */
export function decodeSafetensors(
  bytes: Uint8Array,
  file = 'buffer',
): { readonly tensors: FlatTree<HostTensor>; readonly metadata: SafetensorsMetadata } {
  const length = headerLength(bytes.subarray(0, 8), bytes.length, file);
  const header = parseHeader(bytes.subarray(8, 8 + length), bytes.length - 8 - length, file);
  const tensors: Record<string, HostTensor> = Object.create(null);
  for (const [name, { dtype, shape, start, end }] of Object.entries(header.entries)) {
    const data = allocate(dtype, sizeOf(shape));
    bytesOf(data).set(bytes.subarray(header.dataStart + start, header.dataStart + end));
    tensors[name] = { dtype, shape, data };
  }
  return { tensors, metadata: header.metadata };
}

/** A tensor's raw bytes. @throws SafetensorsError if its memory does not fit its shape. */
export function dataBytesOf(path: string, tensor: HostTensor): Uint8Array {
  const bytes = bytesOf(tensor.data);
  if (bytes.length !== byteLengthOf(tensor))
    throw new SafetensorsError(
      `tensor '${path}' of dtype ${tensor.dtype} and shape [${tensor.shape}] should hold ${byteLengthOf(tensor)} bytes, but its array has ${bytes.length}`,
    );
  return bytes;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

function show(value: unknown): string {
  return JSON.stringify(value) ?? 'nothing';
}

function hex(byte: number | undefined): string {
  return byte === undefined ? 'nothing' : `0x${byte.toString(16).padStart(2, '0')}`;
}
