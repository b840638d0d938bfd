import { grown } from './grown.ts';
import { PairHeap } from './pair-heap.ts';
import { PairPlaces } from './pair-places.ts';
import { pieceEnd } from './pieces.ts';
import { WordTable } from './word-table.ts';

/** Two token ids that become one. */
export type Merge = readonly [number, number];

const PAIR = 65536;
const BYTES = 256;

/** What training learns, and what it knows of the corpus by then. */
export interface Trained {
  readonly merges: Merge[];
  /** The distinct pieces of the corpus. */
  readonly words: WordTable;
  /** The word that each piece of the corpus is, in its order. */
  readonly pieces: Int32Array;
  /** How often each word occurs. */
  readonly counts: Int32Array;
  /** The tokens of all words, one after another, with all merges applied. */
  readonly tokens: Int32Array;
  /** Where each word's begin in `tokens`, and, last, where they end. */
  readonly starts: Int32Array;
}

/** The distinct pieces of a corpus, and the one that stands at each place of it. */
function wordsOf(corpus: Uint8Array): { words: WordTable; pieces: Int32Array } {
  const words = new WordTable();
  // (Most have four bytes or more.)
  let pieces: Int32Array = new Int32Array(Math.ceil(corpus.length / 4));
  let length = 0;
  for (let start = 0; start < corpus.length; ) {
    const end = pieceEnd(corpus, start);
    if (length === pieces.length) pieces = grown(pieces, 2 * length);
    pieces[length++] = words.numberOf(corpus, start, end, Number.POSITIVE_INFINITY);
    start = end;
  }
  return { words, pieces: pieces.slice(0, length) };
}

/** How often each of `words` words occurs. */
function countsOf(pieces: Int32Array, words: number): Int32Array {
  const counts = new Int32Array(words);
  for (let i = 0; i < pieces.length; i++) {
    const word = pieces[i] as number;
    counts[word] = (counts[word] as number) + 1;
  }
  return counts;
}

/**
 * Learns byte-pair merges (Sennrich, Haddow and Birch 2016) on a corpus until the vocabulary (256 bytes and one token a
 * merge) has `vocab` tokens, or no pair occurs twice.
 */
export function trainMerges(corpus: Uint8Array, vocab: number): Merge[] {
  return trainWords(corpus, vocab).merges;
}

/**
 * Learns merges like `trainMerges`, and gives the words of the corpus with their tokens: merges are learnt in the order in
 * which encoding applies them, so the corpus is encoded when training ends.
 */
export function trainWords(corpus: Uint8Array, vocab: number): Trained {
  const { words, pieces } = wordsOf(corpus);
  const bytes = words.allBytes();
  const counts = countsOf(pieces, words.size);
  // Each merge leaves one token less, so that a small corpus bounds the vocabulary too.
  const places = new PairPlaces(
    bytes,
    words.allStarts(),
    counts,
    Math.max(BYTES, Math.min(vocab, BYTES + bytes.length)),
  );
  const heap = new PairHeap();
  const push = (pair: number) => {
    const count = places.count[pair] as number;
    // Counts only fall once the merge is over that a pair comes from, so that this one will never be merged.
    if (count >= 2) heap.push(count, (places.left[pair] as number) * PAIR + (places.right[pair] as number), pair);
  };
  for (let pair = 0; pair < places.pairs; pair++) push(pair);
  const merges: Merge[] = [];
  while (BYTES + merges.length < vocab) {
    const top = heap.pop();
    if (top === null) break;
    const { pair } = top;
    if (places.count[pair] !== top.count) {
      // It has lost places since: put it back where it belongs.
      push(pair);
      continue;
    }
    const older = places.pairs;
    places.merge(pair, BYTES + merges.length);
    merges.push([places.left[pair] as number, places.right[pair] as number]);
    for (let fresh = older; fresh < places.pairs; fresh++) push(fresh);
  }
  return { merges, words, pieces, counts, ...places.tokens(words.size) };
}
