import { randomUUID } from 'node:crypto';
import { closeSync, openSync, readSync, unlinkSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Vectors that belong to a client, by name. */
export type KeptVectors = Readonly<Record<string, Float32Array>>;

/** How much a store keeps in memory, and where the rest goes. */
export interface ClientStoreOptions {
  /** Bytes of memory before clients that were not asked for lately are written to a file. Default 256 MiB. */
  readonly memoryBytes?: number;
  /** Folder of that file. Default the system's for temporary files. */
  readonly folder?: string;
}

/**
 * What clients keep from round to round (control variates, personal layers). Only clients that have something take room, and
 * only those of late take memory: the others lie in one file, which has no name and is gone with the process.
 */
export class ClientStore {
  readonly #limit: number;
  readonly #folder: string;
  /** Least recently used first. */
  readonly #memory = new Map<number, KeptVectors>();
  readonly #onDisk = new Map<number, { readonly offset: number; readonly fields: readonly [string, number][] }>();
  #bytes = 0;
  #file: number | null = null;
  #end = 0;

  constructor({ memoryBytes = 256 * 2 ** 20, folder = tmpdir() }: ClientStoreOptions = {}) {
    this.#limit = memoryBytes;
    this.#folder = folder;
  }

  /** Clients that have something. */
  clients(): number[] {
    return [...new Set([...this.#memory.keys(), ...this.#onDisk.keys()])].sort((a, b) => a - b);
  }

  /** What a client keeps; an empty object if nothing. */
  get(client: number): KeptVectors {
    const found = this.#memory.get(client);
    if (found) {
      this.#memory.delete(client);
      this.#memory.set(client, found);
      return found;
    }
    const place = this.#onDisk.get(client);
    if (!place) return {};
    let offset = place.offset;
    return Object.fromEntries(
      place.fields.map(([name, length]) => {
        const values = new Float32Array(length);
        const bytes = new Uint8Array(values.buffer);
        const read = readSync(this.#open(), bytes, 0, bytes.length, offset);
        if (read !== bytes.length)
          throw new Error(`the file of clients' vectors ends in the middle of "${name}" of client ${client}`);
        offset += bytes.length;
        return [name, values];
      }),
    );
  }

  /** Takes what a client keeps from now on. An empty object changes nothing. */
  set(client: number, kept: KeptVectors): void {
    if (Object.keys(kept).length === 0) return;
    const before = this.#memory.get(client);
    if (before) this.#bytes -= sizeOf(before);
    this.#memory.delete(client);
    this.#memory.set(client, kept);
    this.#bytes += sizeOf(kept);
    for (const [oldest, vectors] of this.#memory) {
      if (this.#bytes <= this.#limit || oldest === client) break;
      this.#write(oldest, vectors);
      this.#memory.delete(oldest);
      this.#bytes -= sizeOf(vectors);
    }
  }

  /** Closes the file. */
  close(): void {
    if (this.#file !== null) closeSync(this.#file);
    this.#file = null;
    this.#onDisk.clear();
    this.#memory.clear();
  }

  #write(client: number, kept: KeptVectors): void {
    const fields = Object.entries(kept).map(([name, { length }]) => [name, length] as [string, number]);
    const known = this.#onDisk.get(client);
    // A client's vectors keep their lengths, so they are written over.
    const reuse = known && JSON.stringify(known.fields) === JSON.stringify(fields);
    const place = reuse ? known : { offset: this.#end, fields };
    let { offset } = place;
    for (const values of Object.values(kept)) {
      const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      for (let done = 0; done < bytes.length; )
        done += writeSync(this.#open(), bytes, done, bytes.length - done, offset + done);
      offset += bytes.length;
    }
    this.#end = Math.max(this.#end, offset);
    this.#onDisk.set(client, place);
  }

  #open(): number {
    if (this.#file === null) {
      const path = join(this.#folder, `.plexus-clients-${process.pid}-${randomUUID()}`);
      this.#file = openSync(path, 'wx+', 0o600);
      unlinkSync(path);
    }
    return this.#file;
  }
}

function sizeOf(kept: KeptVectors): number {
  return Object.values(kept).reduce((sum, { byteLength }) => sum + byteLength, 0);
}
