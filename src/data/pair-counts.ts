import { PairTable } from './pair-table.ts';

/** How often each pair of tokens occurs. */
export interface PairCounts {
  /** Number of different pairs that occur. */
  readonly size: number;
  /** How often a pair occurs; 0 for one that never does. */
  get(left: number, right: number): number;
  /** Calls back with each pair that occurs, in no particular order. */
  forEach(visit: (left: number, right: number, count: number) => void): void;
}

/** Counters that a table of all pairs may have: 16 MiB. */
const DENSE = 2 ** 22;

/** Counts pairs of neighbours: in a table of all pairs where the vocabulary is small, else of those that occur. */
export function countPairs(tokens: ArrayLike<number>, vocab: number): PairCounts {
  if (vocab * vocab <= DENSE) return densePairs(tokens, vocab);
  const pairs = new PairTable();
  for (let i = 1; i < tokens.length; i++) pairs.increment(tokens[i - 1] as number, tokens[i] as number);
  return pairs;
}

function densePairs(tokens: ArrayLike<number>, vocab: number): PairCounts {
  const counts = new Uint32Array(vocab * vocab);
  countInto(counts, tokens, vocab);
  let size = 0;
  for (let at = 0; at < counts.length; at++) if (counts[at] !== 0) size += 1;
  return {
    size,
    get: (left, right) => counts[left * vocab + right] as number,
    forEach(visit) {
      for (let left = 0, at = 0; left < vocab; left++)
        for (let right = 0; right < vocab; right++, at++) {
          const count = counts[at] as number;
          if (count !== 0) visit(left, right, count);
        }
    },
  };
}

/** By itself, so that an engine soon has this loop compiled. */
function countInto(counts: Uint32Array, tokens: ArrayLike<number>, vocab: number): void {
  for (let i = 1; i < tokens.length; i++) {
    const at = (tokens[i - 1] as number) * vocab + (tokens[i] as number);
    counts[at] = (counts[at] as number) + 1;
  }
}
