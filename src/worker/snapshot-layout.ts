/** Where a tensor lies in a snapshot. Float32. */
export interface SnapshotTensor {
  /** As in checkpoints: `param/…`, `state/…`, `optim/<slot>/…`. */
  readonly name: string;
  readonly shape: readonly number[];
  /** First byte, a multiple of 64. */
  readonly offset: number;
  /** Whether this rank is the one that writes it to checkpoints. */
  readonly writes: boolean;
}

/**
 * All that another thread needs to read a rank's snapshots: shared memory and what lies where in it. Plain data: it is
 * posted once, when the first snapshot has been taken.
 */
export interface SnapshotShare {
  readonly rank: number;
  /** Name of the file in which a checkpoint keeps what this rank writes. */
  readonly shard: string;
  readonly tensors: readonly SnapshotTensor[];
  /** Bytes of one snapshot. */
  readonly bytes: number;
  /** `SLOT_FIELDS` for each slot, as Int32. */
  readonly flags: SharedArrayBuffer;
  readonly slots: readonly SharedArrayBuffer[];
}

/** A snapshot that was taken. */
export interface SnapshotTaken {
  /** Completed steps. */
  readonly step: number;
  /** Index in `SnapshotShare.slots`. */
  readonly slot: number;
}

/** What is noted of each slot, by index: who uses it (one of the values below), and the step that it holds. */
export const SLOT_FIELDS = ['use', 'step'] as const;

/** Values of `use`: nothing in it; being written; complete. Above `READY` by the number of those who read it. */
export const SLOT_USE = { free: 0, writing: -1, ready: 1 } as const;

/**
 * Snapshots that are there at once. Three rotate: the newest two, and the one being written. The fourth is for when one
 * is being read for long (a checkpoint on a slow disk, say); no memory is spent on it before.
 */
export const SNAPSHOT_SLOTS = 4;

const ALIGNMENT = 64;

/** Lays tensors out one after another. Returns their offsets and the bytes of it all. */
export function layOut(shapes: readonly (readonly number[])[]): { readonly offsets: number[]; readonly bytes: number } {
  let bytes = 0;
  const offsets = shapes.map((shape) => {
    const offset = bytes;
    const size = shape.reduce((product, dim) => product * dim, Float32Array.BYTES_PER_ELEMENT);
    bytes += Math.ceil(size / ALIGNMENT) * ALIGNMENT;
    return offset;
  });
  return { offsets, bytes };
}

/** Bytes of a tensor. */
export function tensorBytes(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, Float32Array.BYTES_PER_ELEMENT);
}
