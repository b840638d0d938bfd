import { worldSize } from '../../plan/index.ts';
import type { RunEvent } from '../events.ts';
import { ClusterError } from './errors.ts';
import type { MeshPlan, MeshPlans } from './mesh-plans.ts';
import type { Roster } from './roster.ts';
import type { Waker } from './waker.ts';

/** A run that could begin with fewer workers than configured waits this long for more, in milliseconds. */
const COMPANY_MS = 1500;

/** What is waited for. */
export interface WorkersWanted {
  readonly job: string;
  readonly roster: Roster;
  readonly plans: MeshPlans;
  readonly waker: Waker;
  /** Null: all of the mesh to begin with, one to go on. */
  readonly minWorkers: number | null;
  /** Whether the run has made a step. */
  readonly started: boolean;
  readonly waitMs: number;
  /** `performance.now()` when the last agent came. */
  joinedAt(): number;
  readonly emit: (event: RunEvent) => void;
}

/**
 * Waits until there are workers enough, and plans for those that are there.
 * @throws ClusterError that says who is there, when it has taken too long
 */
export async function enoughWorkers(wanted: WorkersWanted): Promise<MeshPlan> {
  const { roster, plans, waker, minWorkers, started, waitMs, emit } = wanted;
  const need = minWorkers ?? (started ? 1 : roster.wantedWorld);
  const until = performance.now() + waitMs;
  let told = -1;
  for (;;) {
    const have = roster.slots();
    const mesh = roster.mesh();
    const company = !started && mesh && worldSize(mesh) < roster.wantedWorld;
    const patient = company && performance.now() - wanted.joinedAt() < COMPANY_MS;
    if (have >= need && mesh && !patient) return plans.plan(mesh) as MeshPlan;
    if (have !== told && !patient) {
      emit({ type: 'waiting', have, need });
      told = have;
    }
    if (performance.now() > until)
      throw new ClusterError(
        `${need} ${need === 1 ? 'worker is' : 'workers are'} needed, but after ${(waitMs / 1000).toFixed(0)} s (recovery.wait_s) there ${have === 1 ? 'is' : 'are'} ${have}:\n` +
          `${roster.describe()}\nstart more (plexus worker --nats URL --job ${wanted.job}), or lower --min-workers or parallel`,
      );
    await waker.change(100);
  }
}
