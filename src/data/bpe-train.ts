import { Buffer } from 'node:buffer';
import { pieceEnd } from './pieces.ts';

/** Two token ids that become one. */
export type Merge = readonly [number, number];

const PAIR = 65536;
const BYTES = 256;

/** A distinct piece of the corpus: its current tokens and how often it occurs. */
interface Word {
  tokens: number[];
  readonly count: number;
}

/** Max-heap of (count, pair) with stale entries; equal counts go to the smaller pair, so that training is deterministic. */
class PairHeap {
  private readonly counts: number[] = [];
  private readonly pairs: number[] = [];

  push(count: number, pair: number): void {
    let at = this.counts.length;
    this.counts.push(count);
    this.pairs.push(pair);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.before(at, parent)) break;
      this.swap(at, parent);
      at = parent;
    }
  }

  pop(): { count: number; pair: number } | null {
    const count = this.counts[0];
    const pair = this.pairs[0];
    if (count === undefined || pair === undefined) return null;
    const last = this.counts.length - 1;
    this.swap(0, last);
    this.counts.pop();
    this.pairs.pop();
    for (let at = 0; ; ) {
      const left = 2 * at + 1;
      if (left >= last) break;
      const best = left + 1 < last && this.before(left + 1, left) ? left + 1 : left;
      if (!this.before(best, at)) break;
      this.swap(at, best);
      at = best;
    }
    return { count, pair };
  }

  private before(a: number, b: number): boolean {
    const difference = (this.counts[a] as number) - (this.counts[b] as number);
    return difference !== 0 ? difference > 0 : (this.pairs[a] as number) < (this.pairs[b] as number);
  }

  private swap(a: number, b: number): void {
    const { counts, pairs } = this;
    [counts[a], counts[b]] = [counts[b] as number, counts[a] as number];
    [pairs[a], pairs[b]] = [pairs[b] as number, pairs[a] as number];
  }
}

/** Counts the distinct pieces of a corpus. */
function countWords(corpus: Uint8Array): Word[] {
  const buffer = Buffer.from(corpus.buffer, corpus.byteOffset, corpus.length);
  const counts = new Map<string, { start: number; end: number; count: number }>();
  for (let start = 0; start < corpus.length; ) {
    const end = pieceEnd(corpus, start);
    const key = buffer.toString('latin1', start, end);
    const seen = counts.get(key);
    if (seen) seen.count += 1;
    else counts.set(key, { start, end, count: 1 });
    start = end;
  }
  return [...counts.values()].map(({ start, end, count }) => ({ tokens: [...corpus.subarray(start, end)], count }));
}

/**
 * Learns byte-pair merges (Sennrich, Haddow and Birch 2016) on a corpus until the vocabulary (256 bytes and one token a
 * merge) has `vocab` tokens, or no pair occurs twice. Pair counts are updated only in the words that a merge touches.
 */
export function trainMerges(corpus: Uint8Array, vocab: number): Merge[] {
  const words = countWords(corpus);
  const counts = new Map<number, number>();
  const where = new Map<number, Set<number>>();
  const add = (pair: number, word: number, by: number) => {
    counts.set(pair, (counts.get(pair) ?? 0) + by);
    if (by > 0) {
      const set = where.get(pair);
      if (set) set.add(word);
      else where.set(pair, new Set([word]));
    }
  };
  for (const [w, { tokens, count }] of words.entries())
    for (let i = 0; i + 1 < tokens.length; i++) add((tokens[i] as number) * PAIR + (tokens[i + 1] as number), w, count);

  const heap = new PairHeap();
  for (const [pair, count] of counts) heap.push(count, pair);
  const merges: Merge[] = [];
  while (BYTES + merges.length < vocab) {
    const top = heap.pop();
    if (top === null || top.count < 2) break;
    const actual = counts.get(top.pair) ?? 0;
    if (actual !== top.count) {
      // Stale: counts only fall without being pushed again, so put it back where it belongs.
      if (actual > 0 && actual < top.count) heap.push(actual, top.pair);
      continue;
    }
    const left = Math.floor(top.pair / PAIR);
    const right = top.pair % PAIR;
    const merged = BYTES + merges.length;
    merges.push([left, right]);
    const grown = new Set<number>();
    for (const w of where.get(top.pair) ?? []) {
      const word = words[w] as Word;
      mergeWord(word.tokens, left, right, merged, (pair, sign) => {
        add(pair, w, sign * word.count);
        if (sign > 0) grown.add(pair);
      });
    }
    counts.delete(top.pair);
    where.delete(top.pair);
    for (const pair of grown) heap.push(counts.get(pair) as number, pair);
  }
  return merges;
}

/** Replaces (left, right) by `merged` in place; reports every adjacent pair that goes (-1) or comes (+1). */
function mergeWord(
  tokens: number[],
  left: number,
  right: number,
  merged: number,
  report: (pair: number, sign: number) => void,
): void {
  let out = 0;
  for (let i = 0; i < tokens.length; ) {
    const token = tokens[i] as number;
    if (token === left && tokens[i + 1] === right) {
      if (out > 0) {
        const before = tokens[out - 1] as number;
        report(before * PAIR + left, -1);
        report(before * PAIR + merged, 1);
      }
      if (i + 2 < tokens.length) {
        const after = tokens[i + 2] as number;
        report(right * PAIR + after, -1);
        report(merged * PAIR + after, 1);
      }
      tokens[out++] = merged;
      i += 2;
    } else {
      tokens[out++] = token;
      i += 1;
    }
  }
  tokens.length = out;
}
