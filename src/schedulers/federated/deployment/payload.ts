import { createHash } from 'node:crypto';
import type { NatsConnection } from '@nats-io/transport-node';
import { type BlobServer, fetchBlob } from '../../../comm/index.ts';
import type { Parcel, VectorList } from './messages.ts';

/** Bytes that travel inside a message; more go as a blob, in chunks that are asked for. */
const INLINE_BYTES = 32 * 1024;

/** What a codec wrote, if there is something, then vectors one behind another, little-endian. */
export function joinVectors(
  vectors: readonly (readonly [name: string, values: Float32Array])[],
  encoded: Uint8Array | null = null,
): {
  readonly bytes: Uint8Array;
  readonly list: VectorList;
} {
  let at = encoded?.length ?? 0;
  const total = vectors.reduce((sum, [, { byteLength }]) => sum + byteLength, at);
  const bytes = new Uint8Array(total);
  if (encoded) bytes.set(encoded);
  for (const [, values] of vectors) {
    bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), at);
    at += values.byteLength;
  }
  return { bytes, list: vectors.map(([name, { length }]) => ({ name, length })) };
}

/**
 * The vectors of a parcel, each in memory of its own.
 * @param from bytes before the first of them, which a codec wrote
 * @throws RangeError if there are more or fewer bytes
 */
export function splitVectors(bytes: Uint8Array, list: VectorList, from = 0): Map<string, Float32Array> {
  const expected = from + bytesOf(list);
  if (bytes.length !== expected)
    throw new RangeError(`${bytes.length} bytes came, ${expected} were expected for ${list.length} vectors`);
  const vectors = new Map<string, Float32Array>();
  let at = from;
  for (const { name, length } of list) {
    // (A copy: what came over the network need not begin at a multiple of four.)
    vectors.set(name, new Float32Array(copied(bytes.subarray(at, at + 4 * length))));
    at += 4 * length;
  }
  return vectors;
}

/** The bytes alone, at the beginning of memory of their own. (`slice` of Node's buffers copies nothing.) */
const copied = (bytes: Uint8Array): ArrayBuffer => new Uint8Array(bytes).buffer;

/** Bytes of vectors. */
export const bytesOf = (list: VectorList): number => 4 * list.reduce((sum, { length }) => sum + length, 0);

/** Something to send, and what takes it back once nobody needs it any more. */
export interface Offered {
  readonly parcel: Parcel;
  withdraw(): void;
}

/** Puts bytes where they can be had: into the message if they are few. They must not change until they are withdrawn. */
export function offer(blobs: BlobServer, owner: string, name: string, bytes: Uint8Array): Offered {
  if (bytes.length <= INLINE_BYTES) return { parcel: { bytes }, withdraw: () => undefined };
  const withdraw = blobs.offer(name, bytes);
  return { parcel: { blob: name, owner, length: bytes.length, sha256: digest(bytes) }, withdraw };
}

/** How to get what a parcel stands for. */
export interface TakeOptions {
  readonly nats: NatsConnection;
  readonly job: string;
  readonly secret: string;
  /** Owner that the blob must have: nobody else's is fetched. */
  readonly owner: string;
  /** Bytes that it must have. */
  readonly length: number;
  readonly deadlineMs: number;
  readonly signal?: AbortSignal;
}

/**
 * The bytes of a parcel, fetched where they are a blob, several chunks at a time.
 * @throws RangeError before anything is fetched if the length or the owner is another; Error if the checksum is; what
 * `fetchBlob` throws
 */
export async function take(parcel: Parcel, options: TakeOptions): Promise<Uint8Array> {
  const { nats, job, secret, owner, length, deadlineMs, signal } = options;
  const has = 'bytes' in parcel ? parcel.bytes.length : parcel.length;
  if (has !== length) throw new RangeError(`it has ${has} bytes, ${length} were expected`);
  if ('bytes' in parcel) return parcel.bytes;
  if (parcel.owner !== owner) throw new RangeError(`it names a blob of ${parcel.owner}, not its own`);
  const bytes = await fetchBlob({
    ...{ nats, job, owner, secret, length, deadlineMs },
    blob: parcel.blob,
    offset: 0,
    // Clients are behind firewalls, and listen nowhere.
    way: 'nats',
    ...(signal ? { signal } : {}),
  });
  if (digest(bytes) !== parcel.sha256) throw new Error('its checksum is not that of what came');
  return bytes;
}

function digest(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

const ARRAYS = { Float32Array, Float64Array, Int32Array, Uint16Array, Uint8Array } as const;
const MARK = 'plexus array';

/** Plain data with typed arrays inside, in a form that a message can hold. */
export function packed(value: unknown): unknown {
  if (ArrayBuffer.isView(value)) {
    const kind = Object.entries(ARRAYS).find(([, Type]) => value instanceof Type)?.[0];
    if (!kind) throw new TypeError(`an array of type ${value.constructor.name} cannot be sent`);
    return { [MARK]: kind, bytes: new Uint8Array(value.buffer, value.byteOffset, value.byteLength) };
  }
  if (Array.isArray(value)) return value.map(packed);
  if (typeof value === 'object' && value !== null)
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, packed(each)]));
  return value;
}

/** The opposite of `packed`. @throws TypeError on an array of a kind that is not known */
export function unpacked(value: unknown): unknown {
  if (value instanceof Uint8Array) return value;
  if (Array.isArray(value)) return value.map(unpacked);
  if (typeof value !== 'object' || value === null) return value;
  const { [MARK]: kind, bytes } = value as { [MARK]?: unknown; bytes?: unknown };
  if (kind === undefined) return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, unpacked(each)]));
  const Type = Object.hasOwn(ARRAYS, String(kind)) ? ARRAYS[kind as keyof typeof ARRAYS] : undefined;
  if (!Type || !(bytes instanceof Uint8Array) || bytes.length % Type.BYTES_PER_ELEMENT !== 0)
    throw new TypeError(`an array of type ${String(kind)} cannot be received`);
  return new Type(copied(bytes));
}
