import type { SnapshotInfo, TensorSource } from '../../worker/index.ts';
import type { Seat } from './choose-seats.ts';
import type { TensorNeed } from './tensor-needs.ts';

/** A snapshot and the process that offers it. */
export interface HeldSnapshot {
  /** An agent's id, or `coordinator` for a checkpoint. */
  readonly owner: string;
  readonly hostId: string;
  readonly snapshot: Pick<SnapshotInfo, 'step' | 'tensors' | 'blob'>;
}

/** Where the run goes on, and where each rank finds what it needs. */
export interface Restore {
  /** Completed steps. */
  readonly step: number;
  /** By rank. */
  readonly sources: readonly (readonly TensorSource[])[];
}

/**
 * The newest step for which every tensor that any rank needs lies in some living process, and for each rank the nearest
 * source of each: its own process, its own host, else whoever has served least so far.
 * @param limit completed steps that must not be exceeded: what came later was never reported in full
 * @returns null if there is no such step
 */
export function chooseRestore(
  needs: readonly (readonly TensorNeed[])[],
  seats: readonly Seat[],
  hosts: ReadonlyMap<string, string>,
  snapshots: readonly HeldSnapshot[],
  limit: number,
): Restore | null {
  const steps = [...new Set(snapshots.map(({ snapshot }) => snapshot.step))]
    .filter((step) => step <= limit)
    .sort((a, b) => b - a);
  // What may be missing (residuals after a change of the mesh) is done without only where no step has it: copies of the
  // newest step may still be on their way.
  for (const optionalToo of [true, false])
    for (const step of steps) {
      const places = placesAt(snapshots, step);
      const here = ({ name, shape, optional }: TensorNeed) =>
        (optional && !optionalToo) || fitting(places, name, shape).length > 0;
      if (needs.every((own) => own.every(here))) return { step, sources: sourcesOf(needs, seats, hosts, places) };
    }
  return null;
}

interface Place {
  readonly owner: string;
  readonly hostId: string;
  readonly blob: string;
  readonly shape: readonly number[];
  readonly offset: number;
}

function placesAt(snapshots: readonly HeldSnapshot[], step: number): Map<string, Place[]> {
  const places = new Map<string, Place[]>();
  for (const { owner, hostId, snapshot } of snapshots) {
    if (snapshot.step !== step) continue;
    for (const { name, shape, offset } of snapshot.tensors) {
      const known = places.get(name) ?? [];
      places.set(name, known);
      known.push({ owner, hostId, blob: snapshot.blob, shape, offset });
    }
  }
  return places;
}

function fitting(places: ReadonlyMap<string, Place[]>, name: string, shape: readonly number[]): Place[] {
  return (places.get(name) ?? []).filter((place) => String(place.shape) === String(shape));
}

function sourcesOf(
  needs: readonly (readonly TensorNeed[])[],
  seats: readonly Seat[],
  hosts: ReadonlyMap<string, string>,
  places: ReadonlyMap<string, Place[]>,
): TensorSource[][] {
  const served = new Map<string, number>();
  return needs.map((own, rank) => {
    const agent = seats[rank]?.agent as string;
    const host = hosts.get(agent);
    const distance = (place: Place): number => (place.owner === agent ? 0 : place.hostId === host ? 1 : 2);
    return own.flatMap(({ name, shape, bytes }) => {
      const found = fitting(places, name, shape);
      if (found.length === 0) return [];
      const best = found.reduce((a, b) => {
        const nearer = distance(b) - distance(a) || (served.get(b.owner) ?? 0) - (served.get(a.owner) ?? 0);
        return nearer < 0 ? b : a;
      });
      if (best.owner !== agent) served.set(best.owner, (served.get(best.owner) ?? 0) + bytes);
      return { name, shape, owner: best.owner, blob: best.blob, offset: best.offset };
    });
  });
}
