import type { TensorNeed } from './tensor-needs.ts';

/** Where a rank runs. */
export interface Seat {
  readonly agent: string;
  readonly slot: number;
}

/** What is known of an agent that could run ranks. */
export interface SeatCandidate {
  readonly agent: string;
  readonly hostId: string;
  readonly slots: number;
  /** Names of tensors that lie in its memory already. */
  readonly holds: ReadonlySet<string>;
}

/**
 * Gives each rank a slot. First, ranks go where most bytes of what they need lie already (and, among those, back to the
 * slot where they were, whose thread has compiled their layers); the rest fill hosts and agents one after another in the
 * order of ranks, so that neighbours of the data axis are close together.
 * @param needs by rank
 * @param before by rank of the generation before
 * @throws RangeError if there are fewer slots than ranks
 */
export function chooseSeats(
  needs: readonly (readonly TensorNeed[])[],
  candidates: readonly SeatCandidate[],
  before: readonly Seat[] = [],
): Seat[] {
  const total = candidates.reduce((sum, { slots }) => sum + slots, 0);
  if (total < needs.length) throw new RangeError(`${needs.length} ranks do not fit in ${total} slots`);
  const ordered = inOrder(candidates);
  const free = new Map(ordered.map(({ agent, slots }) => [agent, range(slots)]));
  const seats = new Array<Seat | null>(needs.length).fill(null);
  const takes = (rank: number, agent: string): void => {
    const slots = free.get(agent) as number[];
    const old = before[rank];
    const own = old?.agent === agent ? slots.indexOf(old.slot) : -1;
    seats[rank] = { agent, slot: slots.splice(Math.max(0, own), 1)[0] as number };
  };
  for (const { rank, agent } of byBytes(needs, ordered, before))
    if (seats[rank] === null && (free.get(agent)?.length ?? 0) > 0) takes(rank, agent);
  for (let rank = 0; rank < seats.length; rank++) {
    if (seats[rank] !== null) continue;
    const next = ordered.find(({ agent }) => (free.get(agent)?.length ?? 0) > 0) as SeatCandidate;
    takes(rank, next.agent);
  }
  return seats as Seat[];
}

function byBytes(
  needs: readonly (readonly TensorNeed[])[],
  candidates: readonly SeatCandidate[],
  before: readonly Seat[],
): { rank: number; agent: string; bytes: number; stays: boolean }[] {
  const pairs = needs.flatMap((own, rank) =>
    candidates.map(({ agent, holds }) => ({
      rank,
      agent,
      bytes: own.reduce((sum, { name, bytes }) => sum + (holds.has(name) ? bytes : 0), 0),
      stays: before[rank]?.agent === agent,
    })),
  );
  return pairs
    .filter(({ bytes }) => bytes > 0)
    .sort((a, b) => b.bytes - a.bytes || Number(b.stays) - Number(a.stays) || a.rank - b.rank);
}

/** Hosts with many slots first, so that a mesh spans few of them; always the same order for the same agents. */
function inOrder(candidates: readonly SeatCandidate[]): SeatCandidate[] {
  const ofHost = new Map<string, number>();
  for (const { hostId, slots } of candidates) ofHost.set(hostId, (ofHost.get(hostId) ?? 0) + slots);
  const compare = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);
  return [...candidates].sort(
    (a, b) =>
      (ofHost.get(b.hostId) as number) - (ofHost.get(a.hostId) as number) ||
      compare(a.hostId, b.hostId) ||
      b.slots - a.slots ||
      compare(a.agent, b.agent),
  );
}

function range(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}
