import type { BlobServer } from '../../comm/index.ts';
import { SnapshotShelf } from '../snapshot.ts';
import { type SnapshotShare, tensorBytes } from '../snapshot-layout.ts';
import { Copies, type Copy, type HeldBytes } from './copies.ts';
import type { SnapshotInfo } from './protocol.ts';
import { SharedPool } from './shared-pool.ts';
import { snapshotName } from './snapshot-name.ts';

interface Shelf {
  readonly generation: number;
  readonly rank: number;
  readonly shelf: SnapshotShelf;
  /** Later steps were rolled back. */
  limit: number;
  /** Blobs that are offered, by step. */
  readonly offers: Map<number, () => void>;
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
  /** What other agents hold. */
  readonly #replicas: Copies;
  /** What ranks of this agent were restored from. */
  readonly #restored: Copies;
  /** Memory for copies. */
  readonly pool = new SharedPool();

  constructor(blobs: BlobServer) {
    this.#blobs = blobs;
    this.#replicas = new Copies(blobs, this.pool);
    this.#restored = new Copies(blobs, this.pool);
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
    return this.hold(snapshotName(generation, rank, step));
  }

  /** Takes hold of a snapshot or copy by its blob's name; null if it is not there, or no more. */
  hold(blob: string): { readonly info: SnapshotInfo; readonly held: HeldBytes } | null {
    for (const own of this.#shelves.values())
      for (const step of steps(own)) {
        if (snapshotName(own.generation, own.rank, step) !== blob) continue;
        const held = this.#hold(own, step);
        return held && { info: infoOf(own, step), held };
      }
    return this.#replicas.hold(blob) ?? this.#restored.hold(blob);
  }

  /**
   * Keeps what a rank of this agent has fetched to begin with, until it has newer snapshots of its own.
   * @param step completed steps that the tensors are of
   */
  addRestored(
    owner: string,
    { generation, rank, step }: Pick<SnapshotInfo, 'generation' | 'rank' | 'step'>,
    tensors: SnapshotInfo['tensors'],
    buffer: SharedArrayBuffer,
  ): SnapshotInfo {
    const prefix = `restored-${generation}-${rank}-${step}`;
    const part = this.#restored.list().filter(({ info }) => info.blob.startsWith(`${prefix}-`)).length;
    const info = { generation, rank, step, tensors, bytes: buffer.byteLength, blob: `${prefix}-${part}` };
    this.#restored.add(owner, info, buffer);
    return info;
  }

  /**
   * Keeps a copy of another agent's snapshot, or of some of its tensors; of the copies of a rank those of the newest two
   * steps stay.
   */
  addReplica(
    owner: string,
    of: SnapshotInfo,
    tensors: SnapshotInfo['tensors'],
    buffer: SharedArrayBuffer,
  ): SnapshotInfo {
    const ofRank = (copy: Copy) => copy.owner === owner && copy.info.rank === of.rank;
    this.#replicas.drop((copy) => ofRank(copy) && copy.info.step === of.step && covers(tensors, copy.info.tensors));
    const known = this.#replicas.list().filter(ofRank);
    const part = known.filter(({ info }) => info.step === of.step && info.generation === of.generation).length;
    const blob = `replica-${owner}-${of.generation}-${of.rank}-${of.step}${part > 0 ? `-${part}` : ''}`;
    const info: SnapshotInfo = { ...of, tensors, bytes: buffer.byteLength, blob };
    this.#replicas.add(owner, info, buffer);
    const kept = [...new Set([of.step, ...known.map((copy) => copy.info.step)])].sort((a, b) => b - a);
    const oldest = kept[REPLICAS_KEPT - 1] ?? Number.NEGATIVE_INFINITY;
    this.#replicas.drop((copy) => ofRank(copy) && copy.info.step < oldest);
    return info;
  }

  /** Whether a copy of these tensors of a snapshot, or of a newer one, is there already. */
  hasReplica(owner: string, of: SnapshotInfo): boolean {
    return this.#replicas
      .list()
      .some(
        (copy) =>
          copy.owner === owner &&
          copy.info.rank === of.rank &&
          copy.info.generation === of.generation &&
          (copy.info.step > of.step || (copy.info.step === of.step && covers(copy.info.tensors, of.tensors))),
      );
  }

  /** Everything that is there. */
  list(): SnapshotInfo[] {
    const own = [...this.#shelves.values()].flatMap((shelf) => {
      this.#refresh(shelf);
      return steps(shelf).map((step) => infoOf(shelf, step));
    });
    return [...own, ...[...this.#replicas.list(), ...this.#restored.list()].map(({ info }) => info)];
  }

  /** The run goes on from `step`: what is later never happened. */
  rollBack(step: number): void {
    for (const own of this.#shelves.values()) {
      own.limit = Math.min(own.limit, step);
      this.#refresh(own);
    }
    for (const copies of [this.#replicas, this.#restored]) copies.drop(({ info }) => info.step > step);
  }

  /** Frees everything. */
  clear(): void {
    for (const key of [...this.#shelves.keys()]) this.#dropShelf(key);
    for (const copies of [this.#replicas, this.#restored]) copies.drop(() => true);
    this.pool.clear();
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
    this.#replicas.drop(({ info }) => info.generation < generation && info.step < oldest);
    this.#restored.drop(({ info }) => info.step < oldest);
  }

  #dropShelf(key: string): void {
    for (const withdraw of this.#shelves.get(key)?.offers.values() ?? []) withdraw();
    this.#shelves.delete(key);
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

  /** (Held only until a piece has left: what is read for longer is held by whoever offered it.) */
  #offer(own: Shelf, step: number): () => void {
    const name = snapshotName(own.generation, own.rank, step);
    return this.#blobs.offer(name, {
      length: own.shelf.share.bytes,
      read: async (offset: number, length: number) => {
        const held = this.#hold(own, step);
        if (!held) throw new Error(`snapshot ${name} has made room for a newer one`);
        return { bytes: new Uint8Array(held.buffer, offset, length), release: () => held.release() };
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
  return { generation, rank, step, tensors, bytes, blob: snapshotName(generation, rank, step) };
}

/** Whether all names of `some` are among those of `all`. */
function covers(all: SnapshotInfo['tensors'], some: SnapshotInfo['tensors']): boolean {
  const names = new Set(all.map(({ name }) => name));
  return some.every(({ name }) => names.has(name));
}
