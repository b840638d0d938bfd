import { join } from 'node:path';
import { type MeshShape, positionOf } from '../../plan/index.ts';
import { type LazyTensor, writeSafetensors } from '../../tensor/index.ts';
import type { ShardReport, SnapshotInfo } from '../../worker/index.ts';

/** A rank's snapshot, and the agent whose memory it lies in. */
export interface RankSnapshot {
  readonly agent: string;
  readonly rank: number;
  readonly snapshot: SnapshotInfo;
  /** As in `WorkerEvent`. */
  readonly digests: Readonly<Record<string, string>> | null;
}

/** Fetches `length` bytes of a blob. */
export type Fetch = (owner: string, blob: string, offset: number, length: number) => Promise<Uint8Array>;

/** Shards that are written at a time: enough to keep the disk busy while others are fetched. */
const AT_A_TIME = 3;

/**
 * Writes the shards of a checkpoint from the ranks' memory: of what several ranks hold, the first one's copy is taken, and
 * the others' if it cannot be fetched. The files are on the disk when this resolves.
 * @throws what `fetch` throws of the last holder
 */
export async function writeShards(
  dir: string,
  snapshots: readonly RankSnapshot[],
  mesh: MeshShape,
  fetch: Fetch,
): Promise<ShardReport[]> {
  const holders = new Map<string, Holder[]>();
  for (const { agent, rank, snapshot } of [...snapshots].sort((a, b) => a.rank - b.rank))
    for (const { name, shape, offset } of snapshot.tensors) {
      const known = holders.get(name) ?? [];
      holders.set(name, known);
      known.push({ agent, rank, blob: snapshot.blob, shape, offset });
    }
  const shards = new Map<number, Record<string, LazyTensor>>();
  for (const [name, all] of holders) {
    const [{ rank, shape }] = all as [Holder];
    const shard = shards.get(rank) ?? {};
    shards.set(rank, shard);
    shard[name] = { dtype: 'float32', shape, load: () => load(all, fetch) };
  }
  const reports: ShardReport[] = [];
  const left = [...shards];
  const work = async (): Promise<void> => {
    for (let next = left.shift(); next; next = left.shift()) {
      const [rank, tensors] = next;
      const { data, pipeline } = positionOf(mesh, rank);
      const file = `shard-p${pipeline}-d${data}.safetensors`;
      const { sha256 } = await writeSafetensors(join(dir, file), tensors);
      reports.push({ file, sha256, tensors: Object.keys(tensors) });
    }
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, work));
  return reports.sort((a, b) => (a.file < b.file ? -1 : 1));
}

interface Holder {
  readonly agent: string;
  readonly rank: number;
  readonly blob: string;
  readonly shape: readonly number[];
  readonly offset: number;
}

async function load(holders: readonly Holder[], fetch: Fetch) {
  let problem: unknown;
  for (const { agent, blob, shape, offset } of holders) {
    const length = shape.reduce((product, dim) => product * dim, Float32Array.BYTES_PER_ELEMENT);
    try {
      const bytes = await fetch(agent, blob, offset, length);
      const aligned = bytes.byteOffset % Float32Array.BYTES_PER_ELEMENT === 0 ? bytes : Uint8Array.from(bytes);
      return {
        dtype: 'float32' as const,
        shape,
        data: new Float32Array(aligned.buffer as ArrayBuffer, aligned.byteOffset, length / 4),
      };
    } catch (error) {
      problem = error;
    }
  }
  throw problem;
}
