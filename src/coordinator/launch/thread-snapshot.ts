import { type ShardReport, type SnapshotShelf, type WorkerEvent, writeSnapshotShard } from '../../worker/index.ts';
import { differingReplicas } from '../replicas.ts';
import type { WorkersSnapshot } from './workers.ts';

/**
 * The copies that the threads of one process have made of their state, as one.
 * @param shelves by rank
 * @param taken what each said of it
 * @throws Error if a rank has no copy, or they are of different steps
 */
export function snapshotOf(
  shelves: readonly SnapshotShelf[],
  taken: readonly Pick<Extract<WorkerEvent, { type: 'snapshotted' }>, 'step' | 'digests'>[],
): WorkersSnapshot {
  const views = shelves.map((shelf, rank) => {
    const step = taken[rank]?.step ?? null;
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
        : `the ranks copied their state at different steps: ${taken.map(({ step }) => step).join(', ')}`,
    );
  }
  return {
    step,
    differing: differingReplicas(
      step,
      taken.map(({ digests }) => digests),
    ),
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
