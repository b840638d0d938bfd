import type { RankState } from '../worker/index.ts';

/** Why a job does not move, as far as the waits of its ranks tell. */
export type Culprit =
  /** Nobody waits for anybody. */
  | { readonly kind: 'none' }
  /** `rank` waits for nobody; `waiting` ranks wait for it, directly or for one that does. Most waited for first. */
  | {
      readonly kind: 'rank';
      readonly rank: number;
      readonly waiting: readonly number[];
      /** Whether it answered at all. */
      readonly answered: boolean;
      readonly doing: string | null;
      readonly sinceMs: number | null;
    }
  /** The ranks wait for each other, in this order. */
  | { readonly kind: 'circle'; readonly ranks: readonly number[] };

/**
 * Finds who holds up a job: the rank that others wait for and that itself waits for nobody, or that did not answer. Where
 * there is none although ranks wait, they wait in a circle.
 */
export function findCulprit(ranks: readonly Pick<RankState, 'rank' | 'doing' | 'sinceMs' | 'waits'>[]): Culprit {
  const states = new Map(ranks.map((state) => [state.rank, state]));
  const waitsFor = (rank: number): number[] => states.get(rank)?.waits.map(({ from }) => from) ?? [];
  const waitedFor = new Map<number, Set<number>>();
  for (const { rank } of ranks) {
    const seen = new Set<number>();
    const queue = waitsFor(rank);
    for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
      if (seen.has(next)) continue;
      seen.add(next);
      queue.push(...waitsFor(next));
    }
    for (const other of seen) {
      if (other !== rank) waitedFor.set(other, (waitedFor.get(other) ?? new Set()).add(rank));
    }
  }
  const ends = [...waitedFor]
    .filter(([rank]) => waitsFor(rank).length === 0)
    .sort(([a, x], [b, y]) => y.size - x.size || age(b) - age(a) || a - b);
  const [first] = ends;
  function age(rank: number): number {
    return states.get(rank)?.sinceMs ?? Number.POSITIVE_INFINITY;
  }
  if (first) {
    const [rank, waiting] = first;
    const state = states.get(rank);
    return {
      kind: 'rank',
      rank,
      waiting: [...waiting].sort((a, b) => a - b),
      answered: state !== undefined,
      doing: state?.doing ?? null,
      sinceMs: state?.sinceMs ?? null,
    };
  }
  const start = ranks.find(({ waits }) => waits.length > 0);
  if (!start) return { kind: 'none' };
  // Whoever waits, waits in the end for a circle: go on until a rank comes for the second time.
  const path: number[] = [];
  let at = start.rank;
  while (!path.includes(at)) {
    path.push(at);
    at = waitsFor(at)[0] as number;
  }
  return { kind: 'circle', ranks: path.slice(path.indexOf(at)) };
}
