import { grown } from './grown.ts';
import { WordTable } from './word-table.ts';

const FIRST_TOKENS = 4096;
/** Words that are remembered, so that memory is bounded whatever is encoded. */
const LIMIT = 100_000;

/** Remembers the tokens of words: text repeats its words. */
export class KnownWords {
  private readonly words: WordTable;
  /** The tokens of all words, one after another. */
  private tokens: Int32Array;
  /** Where each word's begin in `tokens`, and, last, where they end. */
  private starts: Int32Array;

  private constructor(words: WordTable, tokens: Int32Array, starts: Int32Array) {
    this.words = words;
    this.tokens = tokens;
    this.starts = starts;
  }

  /** Begins with words whose tokens are known, or with none where they are too many to be kept. */
  static from(words: WordTable, tokens: Int32Array, starts: Int32Array): KnownWords {
    return words.size > LIMIT ? KnownWords.none() : new KnownWords(words, tokens, starts);
  }

  /** Begins with nothing. */
  static none(): KnownWords {
    return new KnownWords(new WordTable(), new Int32Array(FIRST_TOKENS), new Int32Array(FIRST_TOKENS));
  }

  /**
   * Writes the tokens of the word at `start` to `end` of `text` into `ids` from `at` on. A word that is new is worked out
   * there by `encode`, from its bytes, and remembered.
   * @returns where they end
   */
  write(
    text: Uint8Array,
    start: number,
    end: number,
    ids: Int32Array,
    at: number,
    encode: (ids: Int32Array, from: number, to: number) => number,
  ): number {
    const known = this.words.size;
    const word = this.words.numberOf(text, start, end, LIMIT);
    if (word >= 0 && word < known) return this.copy(word, ids, at);
    let to = at;
    for (let i = start; i < end; i++) ids[to++] = text[i] as number;
    to = encode(ids, at, to);
    if (word >= 0) this.add(word, ids, at, to);
    return to;
  }

  /** Writes the tokens of a word, by its number. @returns where they end */
  copy(word: number, ids: Int32Array, at: number): number {
    const { tokens } = this;
    const end = this.starts[word + 1] as number;
    for (let i = this.starts[word] as number; i < end; i++) ids[at++] = tokens[i] as number;
    return at;
  }

  private add(word: number, ids: Int32Array, from: number, to: number): void {
    let end = this.starts[word] as number;
    const needed = end + to - from;
    if (needed > this.tokens.length) this.tokens = grown(this.tokens, 2 * needed);
    if (word + 2 > this.starts.length) this.starts = grown(this.starts, 2 * word + 2);
    for (let i = from; i < to; i++) this.tokens[end++] = ids[i] as number;
    this.starts[word + 1] = end;
  }
}
