import { Packr } from 'msgpackr';

/*
 * A control message is packed with msgpackr and, where it is larger than a NATS message may be, cut into parts. Every
 * part says whose it is, which message of that sender, and which part of how many.
 */

/** Largest control message, in bytes: programs of large meshes have megabytes. */
export const MAX_CONTROL_BYTES = 64 * 2 ** 20;

/** Room for what a part says besides its piece of the message. */
const PART_OVERHEAD = 256;

const VERSION = 1;

/** (Records would be a state of the stream, which lost messages destroy.) */
const packr = new Packr({ useRecords: false, moreTypes: false });

/** Something is wrong with a control message, or with who should take it. */
export class ControlError extends Error {
  override readonly name: string = 'ControlError';
}

/** A piece of a message on the wire. */
export interface Part {
  /** Whose message it is. */
  readonly from: string;
  readonly seq: number;
  readonly part: number;
  readonly parts: number;
  /** Requests: the oldest that is still waited for. Events: the oldest that is not acknowledged. */
  readonly floor: number;
  readonly bytes: Uint8Array;
}

/** @throws ControlError if the message has more than `MAX_CONTROL_BYTES` */
export function packMessage(message: unknown, what: string): Uint8Array {
  // (A copy: msgpackr gives a view of a buffer that it goes on to use.)
  const bytes = Uint8Array.from(packr.pack(message));
  if (bytes.length > MAX_CONTROL_BYTES)
    throw new ControlError(
      `${what} has ${bytes.length} bytes packed, and a control message may have ${MAX_CONTROL_BYTES}; large data goes through blobs`,
    );
  return bytes;
}

export function unpackMessage(bytes: Uint8Array): unknown {
  return packr.unpack(bytes);
}

/** Cuts a packed message so that each part fits a server's `max_payload`. */
export function cut(bytes: Uint8Array, maxPayload: number): Uint8Array[] {
  const most = Math.max(1024, maxPayload - PART_OVERHEAD);
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < bytes.length || at === 0; at += most) pieces.push(bytes.subarray(at, at + most));
  return pieces;
}

export function packPart({ from, seq, part, parts, floor, bytes }: Part): Uint8Array {
  return Uint8Array.from(packr.pack([VERSION, from, seq, part, parts, floor, bytes]));
}

/** Reads a part; null if it is none (a stranger's message, say). */
export function unpackPart(data: Uint8Array): Part | null {
  let value: unknown;
  try {
    value = packr.unpack(data);
  } catch {
    return null; // not msgpack
  }
  if (!Array.isArray(value) || value.length !== 7 || value[0] !== VERSION) return null;
  const [, from, seq, part, parts, floor, bytes] = value as unknown[];
  if (typeof from !== 'string' || from.length > 128 || !(bytes instanceof Uint8Array)) return null;
  for (const number of [seq, part, parts, floor])
    if (!Number.isSafeInteger(number) || (number as number) < 0) return null;
  if ((part as number) >= (parts as number) || (parts as number) > MAX_CONTROL_BYTES / 1024) return null;
  return { from, seq, part, parts, floor, bytes } as Part;
}

/** Puts the parts of one message together, in whatever order they come. */
export class Assembly {
  readonly #pieces: (Uint8Array | undefined)[];
  #left: number;
  #bytes = 0;

  constructor(parts: number) {
    this.#pieces = new Array(parts);
    this.#left = parts;
  }

  /** Which parts are not here yet. */
  get missing(): number[] {
    return Array.from(this.#pieces, (piece, i) => (piece ? -1 : i)).filter((i) => i >= 0);
  }

  /** Returns whether the part is new. */
  add({ part, parts, bytes }: Part): boolean {
    if (parts !== this.#pieces.length || this.#pieces[part]) return false;
    this.#bytes += bytes.length;
    if (this.#bytes > MAX_CONTROL_BYTES) return false;
    this.#pieces[part] = Uint8Array.from(bytes);
    this.#left -= 1;
    return true;
  }

  /** The whole message, packed, or null while parts are missing. */
  get whole(): Uint8Array | null {
    return this.#left > 0 ? null : Buffer.concat(this.#pieces as Uint8Array[]);
  }
}

/** What the answer to a request consists of: a value, an error, or the parts of the request that are missing. */
export type Answer = { readonly ok: unknown } | { readonly error: string } | { readonly need: readonly number[] };
