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

/** Name and length of a vector. */
export type KeptLength = readonly [name: string, length: number];

/** Where a client's vectors lie in the file, one after another. */
interface Place {
  readonly offset: number;
  readonly fields: readonly KeptLength[];
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
  readonly #onDisk = new Map<number, Place>();
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
    return Object.fromEntries(
      this.lengths(client).map(([name, length]) => [name, this.#fromDisk(client, name, length)]),
    );
  }

  /** Names and lengths of what a client keeps, without reading any of it. */
  lengths(client: number): readonly KeptLength[] {
    const found = this.#memory.get(client);
    if (found) return lengthsOf(found);
    return this.#onDisk.get(client)?.fields ?? [];
  }

  /**
   * One vector of what a client keeps. Other than `get` this does not count as asking for the client, so that looking through all of
   * them (for a checkpoint) does not decide who stays in memory.
   * @throws RangeError if the client keeps none of that name
   */
  vector(client: number, name: string): Float32Array {
    const found = this.#memory.get(client)?.[name];
    if (found) return found;
    const known = this.lengths(client).find(([field]) => field === name);
    if (!known) throw new RangeError(`client ${client} keeps no "${name}"`);
    return this.#fromDisk(client, name, known[1]);
  }

  /** Bytes of vectors in memory. */
  get bytesInMemory(): number {
    return this.#bytes;
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

  /** Closes the file, which is the end of it, and forgets everything. */
  close(): void {
    if (this.#file !== null) closeSync(this.#file);
    this.#file = null;
    this.#onDisk.clear();
    this.#memory.clear();
    this.#bytes = 0;
    this.#end = 0;
  }

  #fromDisk(client: number, name: string, length: number): Float32Array {
    const { offset, fields } = this.#onDisk.get(client) as Place;
    const index = fields.findIndex(([field]) => field === name);
    const before = fields.slice(0, index).reduce((sum, [, size]) => sum + size, 0);
    const values = new Float32Array(length);
    const bytes = new Uint8Array(values.buffer);
    const position = offset + before * values.BYTES_PER_ELEMENT;
    for (let done = 0; done < bytes.length; ) {
      const read = readSync(this.#open(), bytes, done, bytes.length - done, position + done);
      if (read === 0)
        throw new Error(`the file of clients' vectors ends in the middle of "${name}" of client ${client}`);
      done += read;
    }
    return values;
  }

  #write(client: number, kept: KeptVectors): void {
    const fields = lengthsOf(kept);
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

function lengthsOf(kept: KeptVectors): KeptLength[] {
  return Object.entries(kept).map(([name, { length }]) => [name, length]);
}
