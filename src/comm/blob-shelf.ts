import type { BlobRequest, BlobStatus } from './blob-wire.ts';

/** Bytes that stay as they are until `release`. */
export interface HeldRange {
  readonly bytes: Uint8Array;
  release(): void;
}

/** What can be offered: bytes in memory, or something that reads ranges or holds them. */
export type BlobSource =
  | Uint8Array
  | SharedArrayBuffer
  | { readonly length: number; read(offset: number, length: number): Promise<Uint8Array | HeldRange> };

/** A piece of a blob, to be released when it has left; or why there is none. */
export type BlobPiece = ({ readonly status: 'ok' } & HeldRange) | { readonly status: BlobStatus; readonly why: string };

/** The blobs that a process offers, by name. */
export class BlobShelf {
  readonly #blobs = new Map<string, { readonly source: BlobSource; readonly length: number }>();

  /** @throws Error if the name is taken */
  offer(name: string, source: BlobSource): () => void {
    if (this.#blobs.has(name)) throw new Error(`blob "${name}" is offered already`);
    const length = source instanceof SharedArrayBuffer ? source.byteLength : source.length;
    const blob = { source, length };
    this.#blobs.set(name, blob);
    return () => {
      if (this.#blobs.get(name) === blob) this.#blobs.delete(name);
    };
  }

  clear(): void {
    this.#blobs.clear();
  }

  /** At most `most` bytes of what is asked for, as a view of the blob where it lies in memory; held by whoever asked. */
  async read({ blob: name, offset, length }: BlobRequest, most: number): Promise<BlobPiece> {
    const blob = this.#blobs.get(name as string);
    if (!blob) return { status: 'gone', why: `blob "${name}" is not offered (any more)` };
    if (offset + length > blob.length)
      return {
        status: 'range',
        why: `blob "${name}" has ${blob.length} bytes; ${offset} to ${offset + length} were asked for`,
      };
    const count = Math.min(length, most);
    const { source } = blob;
    try {
      const found =
        source instanceof SharedArrayBuffer
          ? new Uint8Array(source, offset, count)
          : source instanceof Uint8Array
            ? source.subarray(offset, offset + count)
            : await source.read(offset, count);
      const { bytes, release } = found instanceof Uint8Array ? { bytes: found, release: nothing } : found;
      // (It may have been withdrawn, and its memory used again, while it was read.)
      const withdrawn = this.#blobs.get(name as string) !== blob;
      if (!withdrawn && bytes.length === count) return { status: 'ok', bytes, release };
      release();
      if (withdrawn) return { status: 'gone', why: `blob "${name}" was withdrawn while it was read` };
      return { status: 'failed', why: `${bytes.length} bytes of blob "${name}" were read, not ${count}` };
    } catch (error) {
      return { status: 'failed', why: `blob "${name}" could not be read: ${(error as Error).message}` };
    }
  }
}

const nothing = (): void => undefined;
