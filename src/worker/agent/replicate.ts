import type { ControlRequester } from '../../comm/index.ts';
import { tensorBytes } from '../snapshot-layout.ts';
import { clusterSubjects, type ReplicaOffer, type SnapshotInfo } from './protocol.ts';
import { type FetchRange, gather } from './restore.ts';
import type { SharedPool } from './shared-pool.ts';
import { compact, type SnapshotStore } from './snapshot-store.ts';

/** How long the other agent may take to copy a snapshot, in milliseconds. */
const COPY_MS = 30_000;

/** Where a rank's tensors are copied to, and which. */
export interface ReplicaTarget {
  readonly to: string;
  readonly names: readonly string[];
}

/** What copying needs. */
export interface ReplicatorOptions {
  /** This agent's id. */
  readonly agent: string;
  readonly job: string;
  readonly generation: number;
  readonly rank: number;
  readonly target: ReplicaTarget;
  readonly store: SnapshotStore;
  readonly requester: ControlRequester;
  readonly log: (line: string) => void;
  /** Ends with the generation. */
  readonly signal: AbortSignal;
}

/**
 * Sees to it that another agent has a copy of a rank's newest snapshot: one at a time, and what becomes old while one is
 * under way is left out.
 */
export class Replicator {
  readonly #options: ReplicatorOptions;
  #busy = false;
  #copied = -1;
  #failing = false;
  #first: string[] = [];

  constructor(options: ReplicatorOptions) {
    this.#options = options;
  }

  /** The rank was restored from these blobs of this agent: until it has a snapshot, they are what is to be copied. */
  begin(blobs: readonly string[]): void {
    this.#first = [...blobs];
    this.poke();
  }

  /** There is a new snapshot. */
  poke(): void {
    if (!this.#busy && !this.#options.signal.aborted) void this.#run();
  }

  async #run(): Promise<void> {
    const { agent, job, generation, rank, target, requester, log, signal } = this.#options;
    this.#busy = true;
    for (;;) {
      const newest = signal.aborted ? null : this.#next();
      if (!newest) break;
      const { info, held } = newest;
      const names = new Set(target.names);
      const snapshot: SnapshotInfo = { ...info, rank, tensors: info.tensors.filter(({ name }) => names.has(name)) };
      if (snapshot.tensors.length === 0) {
        held.release();
        continue;
      }
      const offer: ReplicaOffer = { owner: agent, generation, snapshot };
      try {
        await requester.request(clusterSubjects(job).replicas(target.to), offer, { deadlineMs: COPY_MS, signal });
        this.#copied = Math.max(this.#copied, info.generation === generation ? info.step : -1);
        if (this.#failing) log(`rank ${rank}: its snapshots are copied to ${target.to} again`);
        this.#failing = false;
      } catch (error) {
        if (!signal.aborted && !this.#failing)
          log(`rank ${rank}: its snapshot could not be copied to ${target.to}: ${(error as Error).message}`);
        this.#failing = true;
        // (The next snapshot tries again.)
        break;
      } finally {
        held.release();
      }
    }
    this.#busy = false;
  }

  /** What is to be copied next, held: the newest snapshot of the rank, before the first one what it was restored from. */
  #next(): ReturnType<SnapshotStore['newest']> {
    const { generation, rank, store } = this.#options;
    const newest = store.newest(generation, rank, this.#copied);
    if (newest) {
      this.#first = [];
      return newest;
    }
    for (let blob = this.#first.shift(); blob !== undefined; blob = this.#first.shift()) {
      const found = store.hold(blob);
      if (found) return found;
    }
    return null;
  }
}

/** Copies another agent's snapshot into this one's memory, unless one of that rank is being copied already. */
export class ReplicaKeeper {
  readonly #own: string;
  readonly #store: SnapshotStore;
  readonly #copying = new Set<string>();

  constructor(own: string, store: SnapshotStore) {
    this.#own = own;
    this.#store = store;
  }

  /** Returns the copy; null if none was made. @throws what the fetch throws */
  async keep(
    owner: string,
    snapshot: SnapshotInfo,
    fetch: FetchRange,
    signal: AbortSignal,
  ): Promise<SnapshotInfo | null> {
    const key = `${owner}/${snapshot.rank}`;
    if (this.#copying.has(key) || this.#store.hasReplica(owner, snapshot)) return null;
    this.#copying.add(key);
    try {
      const sources = snapshot.tensors.map((tensor) => ({ ...tensor, owner, blob: snapshot.blob }));
      const gathering = gather(this.#own, sources, this.#store, fetch);
      await gathering.arrived;
      signal.throwIfAborted();
      const { tensors, buffer } = packed(gathering.tensors, snapshot.tensors, this.#store.pool);
      gathering.release();
      for (const fetched of gathering.fetched) if (fetched.buffer !== buffer) this.#store.pool.give(fetched.buffer);
      return this.#store.addReplica(owner, snapshot, tensors, buffer);
    } finally {
      this.#copying.delete(key);
    }
  }
}

/** One piece of memory for all tensors: the one that they came in if it holds nothing else. */
function packed(
  placed: ReturnType<typeof gather>['tensors'],
  wanted: SnapshotInfo['tensors'],
  pool: SharedPool,
): { readonly tensors: SnapshotInfo['tensors']; readonly buffer: SharedArrayBuffer } {
  const first = placed[0]?.buffer;
  if (first && placed.every(({ buffer }) => buffer === first))
    return { tensors: placed.map(({ name, shape, offset }) => ({ name, shape, offset })), buffer: first };
  const { tensors, bytes } = compact(wanted);
  const buffer = pool.take(bytes);
  const byName = new Map(placed.map((tensor) => [tensor.name, tensor]));
  for (const { name, shape, offset } of tensors) {
    const from = byName.get(name);
    if (from) new Uint8Array(buffer).set(new Uint8Array(from.buffer, from.offset, tensorBytes(shape)), offset);
  }
  return { tensors, buffer };
}
