import type { RankState } from './agent/protocol.ts';

/** Who holds the others up, as far as it can be told from what all are waiting for. */
export type Culprit =
  /** Others wait for this rank, and it waits for nobody. `state` is null if nothing was heard of it. */
  | { readonly kind: 'rank'; readonly rank: number; readonly state: RankState | null; readonly waiting: number }
  /** These wait for each other, each for the next and the last for the first. */
  | { readonly kind: 'circle'; readonly ranks: readonly number[] }
  | { readonly kind: 'none' };

/** Finds the rank that others wait for, directly or through others, and that itself waits for nobody. */
export function culpritOf(states: readonly RankState[]): Culprit {
  const byRank = new Map(states.map((state) => [state.rank, state]));
  const waitsFor = (rank: number): number[] => byRank.get(rank)?.waits.map(({ from }) => from) ?? [];
  const ends = new Map<number, Set<number>>();
  for (const { rank } of states)
    for (const end of reachable(rank, waitsFor))
      if (waitsFor(end).length === 0 && end !== rank) ends.set(end, (ends.get(end) ?? new Set()).add(rank));
  // Whom most wait for; of those the one that has been at the same thing for longest. Silence is the longest of all.
  const stuck = (rank: number): number => byRank.get(rank)?.sinceMs ?? Number.POSITIVE_INFINITY;
  const [found] = [...ends].sort(([a, x], [b, y]) => y.size - x.size || stuck(b) - stuck(a));
  if (found) {
    const [rank, waiting] = found;
    return { kind: 'rank', rank, state: byRank.get(rank) ?? null, waiting: waiting.size };
  }
  for (const { rank } of states) {
    const ranks = circleFrom(rank, waitsFor);
    if (ranks) return { kind: 'circle', ranks };
  }
  return { kind: 'none' };
}

/** How to print. */
export interface FlightFormat {
  /** Instructions to show of each rank, the newest ones; default 5. */
  readonly recent?: number;
}

/**
 * For people: what each rank is doing, whom it waits for and since when, its last instructions, and who holds the others
 * up.
 */
export function formatFlight(states: readonly RankState[], { recent = 5 }: FlightFormat = {}): string {
  const lines: string[] = [];
  const width = Math.max(...states.map(({ rank }) => `rank ${rank}`.length), 0) + 2;
  const indent = ' '.repeat(width);
  for (const { rank, doing, sinceMs, waits, recent: all } of [...states].sort((a, b) => a.rank - b.rank)) {
    lines.push(`${`rank ${rank}`.padEnd(width)}${doing}, for ${seconds(sinceMs)}`);
    for (const { from, tag, sinceMs: waited } of waits)
      lines.push(`${indent}waits for rank ${from} [${tag}], for ${seconds(waited)}`);
    // The last one is what it is doing now.
    const shown = all.slice(0, -1).slice(-recent);
    if (recent > 0 && shown.length > 0)
      lines.push(
        `${indent}before: ${shown.map(({ instruction, ms }) => `${instruction} (${seconds(ms)} ago)`).join(', ')}`,
      );
  }
  const verdict = formatCulprit(culpritOf(states));
  return [...lines, ...(verdict === null ? [] : [verdict])].join('\n');
}

/** One sentence, or null if nobody holds anybody up. */
export function formatCulprit(culprit: Culprit): string | null {
  if (culprit.kind === 'none') return null;
  if (culprit.kind === 'circle') {
    const { ranks } = culprit;
    return `ranks wait for each other: ${[...ranks, ranks[0]].join(' → ')}`;
  }
  const { rank, state, waiting } = culprit;
  const others = waiting === 1 ? 'one other rank waits' : `${waiting} other ranks wait`;
  return state === null
    ? `${others} for rank ${rank}, of which nothing was heard`
    : `${others} for rank ${rank}, which waits for nobody: ${state.doing}, for ${seconds(state.sinceMs)}`;
}

function seconds(ms: number): string {
  return `${(Math.max(0, ms) / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

/** All that can be come to from a rank, itself left out unless there is a circle. */
function reachable(start: number, next: (rank: number) => readonly number[]): Set<number> {
  const seen = new Set<number>();
  const open = [...next(start)];
  for (let rank = open.pop(); rank !== undefined; rank = open.pop()) {
    if (seen.has(rank)) continue;
    seen.add(rank);
    open.push(...next(rank));
  }
  return seen;
}

/** A way from a rank back to itself; null if there is none. */
function circleFrom(start: number, next: (rank: number) => readonly number[]): number[] | null {
  const visited = new Set<number>();
  const walk = (rank: number, path: readonly number[]): number[] | null => {
    for (const other of next(rank)) {
      if (other === start) return [...path];
      if (visited.has(other)) continue;
      visited.add(other);
      const found = walk(other, [...path, other]);
      if (found) return found;
    }
    return null;
  };
  return walk(start, [start]);
}
