import type { BlobServer } from '../../comm/index.ts';
import { SnapshotShelf } from '../snapshot.ts';
import { type SnapshotShare, tensorBytes } from '../snapshot-layout.ts';
import type { SnapshotInfo } from './protocol.ts';

/** Memory that stays as it is until `release`. */
export interface HeldBytes {
  readonly buffer: SharedArrayBuffer;
  release(): void;
}

interface Shelf {
  readonly generation: number;
  readonly rank: number;
  readonly shelf: SnapshotShelf;
  /** Later steps were rolled back. */
  limit: number;
  /** Blobs that are offered, by step. */
  readonly offers: Map<number, () => void>;
}

interface Replica {
  readonly owner: string;
  readonly info: SnapshotInfo;
  readonly buffer: SharedArrayBuffer;
  readonly withdraw: () => void;
}

/** Copies of another agent's rank that are kept at once: two, of which at least one is whole in all places. */
const REPLICAS_KEPT = 2;

/**
 * The snapshots in an agent's memory: those of its own ranks, in the memory that it shares with their threads, and copies
 * of what other agents hold. Each is offered as a blob for as long as it is there.
 */
export class SnapshotStore {
  readonly #blobs: BlobServer;
  readonly #shelves = new Map<string, Shelf>();
  /** By owner and rank, oldest first. */
  readonly #replicas = new Map<string, Replica[]>();

  constructor(blobs: BlobServer) {
    this.#blobs = blobs;
  }

  /** A rank of this agent has taken its first snapshot. */
  addRank(generation: number, share: SnapshotShare): void {
    const { rank } = share;
    this.#dropShelf(`${generation}/${rank}`);
    const shelf = new SnapshotShelf(share);
    this.#shelves.set(`${generation}/${rank}`, {
      generation,
      rank,
      shelf,
      limit: Number.POSITIVE_INFINITY,
      offers: new Map(),
    });
  }

  /**
   * A rank has taken a snapshot: it is offered, those that had to make room for it are not any more.
   * @param ranks all ranks of the generation that run here
   */
  took(generation: number, rank: number, ranks: readonly number[]): void {
    const own = this.#shelves.get(`${generation}/${rank}`);
    if (own) this.#refresh(own);
    this.#dropOutlived(generation, ranks);
  }

  /** The newest snapshot of a rank, held; null if there is none. */
  newest(
    generation: number,
    rank: number,
    after: number,
  ): { readonly info: SnapshotInfo; readonly held: HeldBytes } | null {
    const own = this.#shelves.get(`${generation}/${rank}`);
    for (const step of own?.shelf.steps() ?? []) {
      if (step <= after) return null;
      const held = own && this.#hold(own, step);
      if (own && held) return { info: infoOf(own, step), held };
    }
    return null;
  }

  /** A rank's snapshot of a step, held; null if it is not there, or no more. */
  at(generation: number, rank: number, step: number): { readonly info: SnapshotInfo; readonly held: HeldBytes } | null {
    return this.hold(blobName(generation, rank, step));
  }

  /** Takes hold of a snapshot or copy by its blob's name; null if it is not there, or no more. */
  hold(blob: string): { readonly info: SnapshotInfo; readonly held: HeldBytes } | null {
    for (const own of this.#shelves.values())
      for (const step of steps(own)) {
        if (blobName(own.generation, own.rank, step) !== blob) continue;
        const held = this.#hold(own, step);
        return held && { info: infoOf(own, step), held };
      }
    for (const { info, buffer } of [...this.#replicas.values()].flat())
      if (info.blob === blob) return { info, held: { buffer, release: () => undefined } };
    return null;
  }

  /** Keeps a copy of another agent's snapshot; of the copies of a rank the newest two stay. */
  addReplica(
    owner: string,
    of: SnapshotInfo,
    tensors: SnapshotInfo['tensors'],
    buffer: SharedArrayBuffer,
  ): SnapshotInfo {
    const key = `${owner}/${of.rank}`;
    this.#dropReplicas((replica) => replica.owner === owner && sameSnapshot(replica.info, of));
    const known = this.#replicas.get(key) ?? [];
    const blob = `replica-${owner}-${of.generation}-${of.rank}-${of.step}`;
    const info: SnapshotInfo = { ...of, tensors, bytes: buffer.byteLength, blob };
    const withdraw = this.#blobs.offer(blob, buffer);
    known.push({ owner, info, buffer, withdraw });
    known.sort((a, b) => a.info.generation - b.info.generation || a.info.step - b.info.step);
    for (const old of known.splice(0, known.length - REPLICAS_KEPT)) old.withdraw();
    this.#replicas.set(key, known);
    return info;
  }

  /** Whether a copy of this snapshot or a newer one is there already. */
  hasReplica(owner: string, of: SnapshotInfo): boolean {
    return (this.#replicas.get(`${owner}/${of.rank}`) ?? []).some(
      ({ info }) => info.generation === of.generation && info.step >= of.step,
    );
  }

  /** Everything that is there. */
  list(): SnapshotInfo[] {
    const own = [...this.#shelves.values()].flatMap((shelf) => {
      this.#refresh(shelf);
      return steps(shelf).map((step) => infoOf(shelf, step));
    });
    return [...own, ...[...this.#replicas.values()].flat().map(({ info }) => info)];
  }

  /** The run goes on from `step`: what is later never happened. */
  rollBack(step: number): void {
    for (const own of this.#shelves.values()) {
      own.limit = Math.min(own.limit, step);
      this.#refresh(own);
    }
    this.#dropReplicas(({ info }) => info.step > step);
  }

  /** Frees everything. */
  clear(): void {
    for (const key of [...this.#shelves.keys()]) this.#dropShelf(key);
    this.#dropReplicas(() => true);
  }

  /** Snapshots of earlier generations go when every rank of this one has two of its own. */
  #dropOutlived(generation: number, ranks: readonly number[]): void {
    const second = (rank: number): number => {
      const own = this.#shelves.get(`${generation}/${rank}`);
      return (own && steps(own)[1]) ?? Number.NEGATIVE_INFINITY;
    };
    const oldest = Math.min(...ranks.map(second));
    for (const [key, own] of [...this.#shelves])
      if (own.generation < generation && (steps(own)[0] ?? Number.NEGATIVE_INFINITY) < oldest) this.#dropShelf(key);
    this.#dropReplicas(({ info }) => info.generation < generation && info.step < oldest);
  }

  #dropShelf(key: string): void {
    for (const withdraw of this.#shelves.get(key)?.offers.values() ?? []) withdraw();
    this.#shelves.delete(key);
  }

  #dropReplicas(which: (replica: Replica) => boolean): void {
    for (const [key, replicas] of [...this.#replicas]) {
      for (const replica of replicas) if (which(replica)) replica.withdraw();
      const kept = replicas.filter((replica) => !which(replica));
      if (kept.length > 0) this.#replicas.set(key, kept);
      else this.#replicas.delete(key);
    }
  }

  /** Offers what is there now and nothing else. */
  #refresh(own: Shelf): void {
    const now = new Set(steps(own));
    for (const [step, withdraw] of [...own.offers]) {
      if (now.has(step)) continue;
      withdraw();
      own.offers.delete(step);
    }
    for (const step of now) if (!own.offers.has(step)) own.offers.set(step, this.#offer(own, step));
  }

  /** (Held only while a piece is copied out: what is read for longer is held by whoever offered it.) */
  #offer(own: Shelf, step: number): () => void {
    const name = blobName(own.generation, own.rank, step);
    return this.#blobs.offer(name, {
      length: own.shelf.share.bytes,
      read: async (offset: number, length: number) => {
        const held = this.#hold(own, step);
        if (!held) throw new Error(`snapshot ${name} has made room for a newer one`);
        try {
          return new Uint8Array(held.buffer, offset, length).slice();
        } finally {
          held.release();
        }
      },
    });
  }

  #hold(own: Shelf, step: number): HeldBytes | null {
    if (step > own.limit) return null;
    const view = own.shelf.acquire(step);
    if (!view) return null;
    return { buffer: own.shelf.share.slots[view.slot] as SharedArrayBuffer, release: () => view.release() };
  }
}

/** Tensors of a snapshot, some of them or all, laid out one after another as they lie in a copy. */
export function compact(tensors: SnapshotInfo['tensors']): { tensors: SnapshotInfo['tensors']; bytes: number } {
  let bytes = 0;
  const moved = [...tensors]
    .sort((a, b) => a.offset - b.offset)
    .map(({ name, shape }) => {
      const offset = bytes;
      bytes += tensorBytes(shape);
      return { name, shape, offset };
    });
  return { tensors: moved, bytes };
}

function steps({ shelf, limit }: Shelf): number[] {
  return shelf.steps().filter((step) => step <= limit);
}

function infoOf({ generation, rank, shelf }: Shelf, step: number): SnapshotInfo {
  const { tensors, bytes } = shelf.share;
  return { generation, rank, step, tensors, bytes, blob: blobName(generation, rank, step) };
}

function blobName(generation: number, rank: number, step: number): string {
  return `snapshot-${generation}-${rank}-${step}`;
}

function sameSnapshot(a: SnapshotInfo, b: SnapshotInfo): boolean {
  return a.generation === b.generation && a.rank === b.rank && a.step === b.step;
}
