import { worldSize } from '../../plan/index.ts';
import type { Formed } from './generation.ts';
import type { Membership } from './membership.ts';
import type { Roster } from './roster.ts';

/** Generations are not begun more often than this only to take in a worker, in milliseconds. */
const GROW_MS = 2000;

/**
 * Why a generation should end at the next boundary of steps, or null: an agent leaves, copies are gone, workers have come.
 * @param formedAt `performance.now()` when its ranks were ready
 */
export function plannedChange(
  { seats, replicaHosts }: Formed,
  roster: Roster,
  membership: Membership,
  formedAt: number,
): string | null {
  const leaving = roster.leaving().find(({ id }) => seats.some(({ agent }) => agent === id));
  if (leaving) return `agent ${leaving.id} leaves`;
  const keeper = [...replicaHosts].find((id) => membership.get(id) === null);
  if (keeper !== undefined) return `agent ${keeper}, which kept copies, is gone`;
  if (performance.now() - formedAt < GROW_MS) return null;
  const mesh = roster.mesh();
  if (!mesh || worldSize(mesh) <= seats.length) return null;
  return `${roster.slots()} workers are there, and the mesh had ${seats.length}`;
}
