import { createHmac, timingSafeEqual } from 'node:crypto';
import { Packr } from 'msgpackr';

const VERSION = 1;
const packr = new Packr({ useRecords: false });

/** Bytes before the data of an answer. */
export const ANSWER_BYTES = 16;

/** How a request for a range went. `refused`: the proof of the job's secret is wrong, or there is no secret yet. */
export type BlobStatus = 'ok' | 'gone' | 'range' | 'refused' | 'failed';
const STATUSES: readonly BlobStatus[] = ['ok', 'gone', 'range', 'refused', 'failed'];

/** A blob that is not offered any more, or never was, or has no such range. Asking again is of no use. */
export class BlobGone extends Error {
  override readonly name = 'BlobGone';
}

/** A range of a blob could not be fetched in time. */
export class BlobTimeout extends Error {
  override readonly name = 'BlobTimeout';
}

/** Asks for bytes of a blob, or where the server listens for direct connections (`blob` null). */
export interface BlobRequest {
  readonly blob: string | null;
  readonly offset: number;
  readonly length: number;
}

/** Where a server of blobs can be reached directly. */
export interface BlobPlace {
  readonly hostId: string;
  readonly tcp: { readonly host: string; readonly port: number } | null;
  readonly unix: string | null;
}

/** Subject of the requests to one server. */
export const blobSubject = (job: string, owner: string): string => `plexus.${job}.blobs.${owner}`;

/** A request with the proof that its sender knows the job's secret. */
export function packRequest(request: BlobRequest, owner: string, secret: string | Uint8Array): Uint8Array {
  const { blob, offset, length } = request;
  return Uint8Array.from(packr.pack([VERSION, blob, offset, length, proof(request, owner, secret)]));
}

/** Reads a request; null if it is none. `known`: whether its sender knows one of the secrets. */
export function unpackRequest(
  data: Uint8Array,
  owner: string,
  secrets: readonly (string | Uint8Array)[],
): { readonly request: BlobRequest; readonly known: boolean } | null {
  let value: unknown;
  try {
    value = packr.unpack(data);
  } catch {
    return null; // not msgpack
  }
  if (!Array.isArray(value) || value.length !== 5 || value[0] !== VERSION) return null;
  const [, blob, offset, length, given] = value as unknown[];
  if (blob !== null && (typeof blob !== 'string' || blob.length > 512)) return null;
  for (const number of [offset, length]) if (!Number.isSafeInteger(number) || (number as number) < 0) return null;
  if (!(given instanceof Uint8Array)) return null;
  const request: BlobRequest = { blob, offset: offset as number, length: length as number };
  const known = secrets.some((secret) => {
    const expected = proof(request, owner, secret);
    return given.length === expected.length && timingSafeEqual(given, expected);
  });
  return { request, known };
}

function proof({ blob, offset, length }: BlobRequest, owner: string, secret: string | Uint8Array): Uint8Array {
  return createHmac('sha256', secret)
    .update(JSON.stringify(['plexus blob', owner, blob, offset, length]))
    .digest();
}

/** Writes the head of an answer: version, status, length of the data behind it, its CRC-32. */
export function writeAnswer(into: Uint8Array, status: BlobStatus, length: number, crc: number): void {
  const view = new DataView(into.buffer, into.byteOffset, ANSWER_BYTES);
  view.setUint8(0, VERSION);
  view.setUint8(1, STATUSES.indexOf(status));
  view.setUint16(2, 0);
  view.setUint32(4, length, true);
  view.setUint32(8, crc, true);
  view.setUint32(12, 0, true);
}

/** Reads the head of an answer; null if it is none. */
export function readAnswer(
  bytes: Uint8Array,
): { readonly status: BlobStatus; readonly length: number; readonly crc: number } | null {
  if (bytes.length < ANSWER_BYTES || bytes[0] !== VERSION) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, ANSWER_BYTES);
  const status = STATUSES[view.getUint8(1)];
  return status ? { status, length: view.getUint32(4, true), crc: view.getUint32(8, true) } : null;
}
