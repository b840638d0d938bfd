import { grown } from './grown.ts';

const BYTES = 256;
const NONE = -1;

/**
 * The tokens of some words, first their bytes, with a list of the places of each pair of adjacent tokens: merging a pair
 * touches its own places and their neighbours, no others. Everything is in a few arrays of numbers, so that neither a
 * place nor a word is an object. Places that a pair has lost stay in its list, and are passed over.
 */
export class PairPlaces {
  /** Number of pairs that have been seen; they are numbered as they come. */
  pairs = 0;
  readonly left: number[] = [];
  readonly right: number[] = [];
  /** How often the pair occurs: a word's count for each of its places there. */
  readonly count: number[] = [];
  private readonly first: number[] = [];
  private readonly last: number[] = [];

  // Of each entry of the lists.
  private place: Int32Array;
  private later: Int32Array;
  private entries = 0;

  /**
   * The bytes of all words, NONE before, between and after them. Each token has its number at its first byte and at its
   * last one. Numbers at a place only rise, so that a place that is no longer a pair's cannot look as if it were.
   */
  private readonly token: Int32Array;
  /** How often the word occurs that is at a place. */
  private readonly weight: Int32Array;
  /** The pair that begins at a place, if a token and another one do. */
  private readonly pairAt: Int32Array;
  /** Bytes of each token. */
  private readonly width: Int32Array;

  // The pair of the newest token with each other one, if it is not older than the merge.
  private readonly withNext: Int32Array;
  private readonly withPrevious: Int32Array;

  /**
   * @param bytes of all words, one after another, each from one of `starts` to the next
   * @param counts how often each word occurs
   * @param vocab more than the largest token that will be merged into
   */
  constructor(bytes: Uint8Array, starts: Int32Array, counts: Int32Array, vocab: number) {
    const places = bytes.length + counts.length + 1;
    this.token = new Int32Array(places);
    this.weight = new Int32Array(places);
    this.pairAt = new Int32Array(places);
    this.place = new Int32Array(2 * places);
    this.later = new Int32Array(2 * places);
    this.width = new Int32Array(vocab).fill(1, 0, BYTES);
    this.withNext = new Int32Array(vocab);
    this.withPrevious = new Int32Array(vocab);
    const { token, weight } = this;
    let at = 0;
    token[at++] = NONE;
    for (let word = 0; word < counts.length; word++) {
      const end = starts[word + 1] as number;
      const count = counts[word] as number;
      for (let i = starts[word] as number; i < end; i++) {
        token[at] = bytes[i] as number;
        weight[at++] = count;
      }
      token[at++] = NONE;
    }
    this.listBytes();
  }

  /** Replaces a pair by the new token `merged` everywhere, from left to right. Pairs with it get the numbers from `pairs` on. */
  merge(pair: number, merged: number): void {
    const { token, width, withNext, withPrevious } = this;
    const older = this.pairs;
    const left = this.left[pair] as number;
    const right = this.right[pair] as number;
    const step = width[left] as number;
    const whole = step + (width[right] as number);
    width[merged] = whole;
    // Lists run from left to right, since places are appended in the order of the list that is gone through here.
    for (let entry = this.first[pair] as number; entry !== NONE; entry = this.later[entry] as number) {
      const at = this.place[entry] as number;
      // Of `aaa` the second `aa` is gone with the first.
      if (token[at] !== left || token[at + step] !== right) continue;
      token[at] = merged;
      token[at + step] = merged;
      token[at + whole - 1] = merged;
      const next = token[at + whole] as number;
      if (next !== NONE) {
        this.remove(at + step);
        if ((withNext[next] as number) < older) withNext[next] = this.newPair(merged, next);
        this.append(withNext[next] as number, at);
      }
      const previous = token[at - 1] as number;
      if (previous !== NONE) {
        const before = at - (width[previous] as number);
        this.remove(before);
        if ((withPrevious[previous] as number) < older) withPrevious[previous] = this.newPair(previous, merged);
        this.append(withPrevious[previous] as number, before);
      }
    }
    this.first[pair] = NONE;
    this.count[pair] = 0;
  }

  /** The tokens of all words as they are now, one after another, and where each word's begin and, last, end in them. */
  tokens(words: number): { tokens: Int32Array; starts: Int32Array } {
    const { token, width } = this;
    const tokens = new Int32Array(token.length);
    const starts = new Int32Array(words + 1);
    let length = 0;
    let word = 0;
    for (let at = 1; at < token.length; ) {
      const id = token[at] as number;
      if (id === NONE) {
        starts[++word] = length;
        at += 1;
      } else {
        tokens[length++] = id;
        at += width[id] as number;
      }
    }
    return { tokens: tokens.slice(0, length), starts };
  }

  /** Makes the lists of all pairs of bytes. */
  private listBytes(): void {
    const { token } = this;
    const known = new Int32Array(BYTES * BYTES).fill(NONE);
    for (let at = 1; at + 1 < token.length; at++) {
      const left = token[at] as number;
      const right = token[at + 1] as number;
      if (left === NONE || right === NONE) continue;
      const two = left * BYTES + right;
      if (known[two] === NONE) known[two] = this.newPair(left, right);
      this.append(known[two] as number, at);
    }
  }

  private newPair(left: number, right: number): number {
    this.left.push(left);
    this.right.push(right);
    this.count.push(0);
    this.first.push(NONE);
    this.last.push(NONE);
    return this.pairs++;
  }

  private append(pair: number, at: number): void {
    const entry = this.entries++;
    if (entry === this.place.length) {
      this.place = grown(this.place, 2 * entry);
      this.later = grown(this.later, 2 * entry);
    }
    const last = this.last[pair] as number;
    if (last === NONE) this.first[pair] = entry;
    else this.later[last] = entry;
    this.last[pair] = entry;
    this.count[pair] = (this.count[pair] as number) + (this.weight[at] as number);
    this.place[entry] = at;
    this.later[entry] = NONE;
    this.pairAt[at] = pair;
  }

  private remove(at: number): void {
    const pair = this.pairAt[at] as number;
    this.count[pair] = (this.count[pair] as number) - (this.weight[at] as number);
  }
}
