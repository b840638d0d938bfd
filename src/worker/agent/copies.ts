import type { BlobServer } from '../../comm/index.ts';
import type { SnapshotInfo } from './protocol.ts';
import type { SharedPool } from './shared-pool.ts';

/** Memory that stays as it is until `release`. */
export interface HeldBytes {
  readonly buffer: SharedArrayBuffer;
  release(): void;
}

/** A copy of tensors in memory of its own. */
export interface Copy {
  /** Whose snapshot it was; this agent's own id where a rank of its own was restored from it. */
  readonly owner: string;
  readonly info: SnapshotInfo;
}

interface Entry extends Copy {
  readonly buffer: SharedArrayBuffer;
  readonly withdraw: () => void;
  /** Who reads it right now. */
  readers: number;
  dropped: boolean;
}

/** Copies of tensors that were taken elsewhere, each offered as a blob while it is here. Their memory is used again. */
export class Copies {
  readonly #blobs: BlobServer;
  readonly #pool: SharedPool;
  /** By blob. */
  readonly #entries = new Map<string, Entry>();

  constructor(blobs: BlobServer, pool: SharedPool) {
    this.#blobs = blobs;
    this.#pool = pool;
  }

  /** Keeps a copy; the buffer belongs to it from now on. */
  add(owner: string, info: SnapshotInfo, buffer: SharedArrayBuffer): void {
    const withdraw = this.#blobs.offer(info.blob, buffer);
    this.#entries.set(info.blob, { owner, info, buffer, withdraw, readers: 0, dropped: false });
  }

  list(): Copy[] {
    return [...this.#entries.values()];
  }

  /** Takes hold of a copy by its blob's name; null if it is not there. */
  hold(blob: string): { readonly info: SnapshotInfo; readonly held: HeldBytes } | null {
    const entry = this.#entries.get(blob);
    if (!entry) return null;
    entry.readers += 1;
    let released = false;
    const release = (): void => {
      if (released) return;
      released = true;
      entry.readers -= 1;
      this.#free(entry);
    };
    return { info: entry.info, held: { buffer: entry.buffer, release } };
  }

  drop(which: (copy: Copy) => boolean): void {
    for (const [blob, entry] of [...this.#entries]) {
      if (!which(entry)) continue;
      this.#entries.delete(blob);
      entry.withdraw();
      entry.dropped = true;
      this.#free(entry);
    }
  }

  /** (Who fetches it over the network right now finds that its checksum is wrong, and that the blob is gone.) */
  #free(entry: Entry): void {
    if (entry.dropped && entry.readers === 0) this.#pool.give(entry.buffer);
  }
}
