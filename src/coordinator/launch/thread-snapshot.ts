import { type ShardReport, type SnapshotShelf, writeSnapshotShard } from '../../worker/index.ts';
import type { WorkersSnapshot } from './workers.ts';

/**
 * The copies that the threads of one process have made of their state, as one.
 * @param shelves by rank
 * @param steps the step that each has copied; null where it had no memory
 * @throws Error if a rank has no copy, or they are of different steps
 */
export function snapshotOf(shelves: readonly SnapshotShelf[], steps: readonly (number | null)[]): WorkersSnapshot {
  const views = shelves.map((shelf, rank) => {
    const step = steps[rank] ?? null;
    return step === null ? null : shelf.acquire(step);
  });
  const release = (): void => {
    for (const view of views) view?.release();
  };
  const missing = views.indexOf(null);
  const step = views[0]?.step;
  if (missing >= 0 || step === undefined || views.some((view) => view?.step !== step)) {
    release();
    throw new Error(
      missing >= 0
        ? `rank ${missing} had no memory for a copy of its state: all that it has is being read`
        : `the ranks copied their state at different steps: ${steps.join(', ')}`,
    );
  }
  return {
    step,
    async write(dir) {
      // One after another: cores and disk are for training first.
      const shards: ShardReport[] = [];
      for (const [rank, view] of views.entries()) {
        const { share } = shelves[rank] as SnapshotShelf;
        if (view) shards.push(...(await writeSnapshotShard(share, view.bytes, dir)));
      }
      return shards;
    },
    release,
  };
}
