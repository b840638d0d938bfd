import { tensorBytes } from '../snapshot-layout.ts';
import type { HeldBytes } from './copies.ts';
import type { SnapshotInfo, TensorSource } from './protocol.ts';
import type { SharedPool } from './shared-pool.ts';
import type { SnapshotStore } from './snapshot-store.ts';

/** Fetches a range of a blob into memory. */
export type FetchRange = (range: {
  readonly owner: string;
  readonly blob: string;
  readonly offset: number;
  readonly length: number;
  readonly into: Uint8Array;
  /** May be told how many of the first bytes are there, as they come. */
  readonly moved: (bytes: number) => void;
}) => Promise<unknown>;

/** A tensor in shared memory. */
export interface PlacedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly buffer: SharedArrayBuffer;
  /** In bytes. */
  readonly offset: number;
  /** The agent's own blob that it is part of; null where it is fetched. */
  readonly blob: string | null;
  /** The piece of memory that it is fetched into, as `Gathering.follow` numbers them; null where it is there already. */
  readonly piece: number | null;
}

/** Where the tensors are going to lie, and when they do. */
export interface Gathering {
  readonly tensors: readonly PlacedTensor[];
  /** Everything is there. @throws what a fetch throws, or an error naming a snapshot of this agent that is gone */
  readonly arrived: Promise<void>;
  /** Tells how many of the first bytes of each piece of memory are there: at once, and whenever more have come. */
  follow(moved: (piece: number, bytes: number) => void): void;
  /** Pieces of memory that were fetched, and what lies in each. */
  readonly fetched: readonly { readonly buffer: SharedArrayBuffer; readonly tensors: SnapshotInfo['tensors'] }[];
  /** Blobs of this agent's own that tensors lie in. */
  readonly own: readonly string[];
  /** Lets go of this agent's own snapshots. */
  release(): void;
}

/** Gaps up to so many bytes are fetched along: a range of its own costs a round trip. */
const GAP_BYTES = 4096;

interface Range {
  readonly owner: string;
  readonly blob: string;
  readonly offset: number;
  end: number;
  readonly sources: TensorSource[];
}

/**
 * Brings tensors from wherever they are into shared memory: what lies in this agent's own memory is used where it is, the
 * rest is fetched, neighbours in one range, all ranges at the same time.
 */
export function gather(
  own: string,
  sources: readonly TensorSource[],
  store: Pick<SnapshotStore, 'hold'> & { readonly pool: Pick<SharedPool, 'take'> },
  fetch: FetchRange,
): Gathering {
  const held = new Map<string, HeldBytes>();
  const release = () => {
    for (const view of held.values()) view.release();
    held.clear();
  };
  const tensors: PlacedTensor[] = [];
  for (const source of sources) {
    if (source.owner !== own) continue;
    let view = held.get(source.blob);
    if (!view) {
      const found = store.hold(source.blob);
      if (!found) {
        release();
        const arrived = Promise.reject(new Error(`snapshot ${source.blob} of agent ${own} is not there any more`));
        arrived.catch(() => undefined);
        return { tensors: [], fetched: [], own: [], arrived, follow: () => undefined, release };
      }
      view = found.held;
      held.set(source.blob, view);
    }
    const { name, shape, offset } = source;
    tensors.push({ name, shape, buffer: view.buffer, offset, blob: source.blob, piece: null });
  }
  const ranges = rangesOf(sources.filter((source) => source.owner !== own));
  const fetched: { buffer: SharedArrayBuffer; tensors: SnapshotInfo['tensors'] }[] = [];
  const moved = ranges.map(() => 0);
  let told: (piece: number, bytes: number) => void = () => undefined;
  const fetches = ranges.map(async (range, piece) => {
    const buffer = store.pool.take(range.end - range.offset);
    const { owner, blob, offset } = range;
    const inside = range.sources.map((source) => ({
      name: source.name,
      shape: source.shape,
      offset: source.offset - offset,
    }));
    fetched.push({ buffer, tensors: inside });
    for (const tensor of inside) tensors.push({ ...tensor, buffer, blob: null, piece });
    const tell = (bytes: number) => {
      moved[piece] = bytes;
      told(piece, bytes);
    };
    const { byteLength: length } = buffer;
    await fetch({ owner, blob, offset, length, into: new Uint8Array(buffer), moved: tell });
    tell(length);
  });
  const arrived = Promise.all(fetches).then(() => undefined);
  arrived.catch(() => undefined);
  const follow = (listener: typeof told): void => {
    told = listener;
    for (const [piece, bytes] of moved.entries()) told(piece, bytes);
  };
  return { tensors, fetched, own: [...held.keys()], arrived, follow, release };
}

/** Neighbouring tensors of a blob in one range. */
export function rangesOf(sources: readonly TensorSource[]): Range[] {
  const ranges: Range[] = [];
  const ordered = [...sources].sort(
    (a, b) => compare(a.owner, b.owner) || compare(a.blob, b.blob) || a.offset - b.offset,
  );
  for (const source of ordered) {
    const { owner, blob, offset, shape } = source;
    const end = offset + tensorBytes(shape);
    const last = ranges[ranges.length - 1];
    if (last && last.owner === owner && last.blob === blob && offset - last.end <= GAP_BYTES) {
      last.sources.push(source);
      last.end = Math.max(last.end, end);
    } else ranges.push({ owner, blob, offset, end, sources: [source] });
  }
  return ranges;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
