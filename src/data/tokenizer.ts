/** Turns text into token ids and back. */
export interface Tokenizer {
  readonly kind: 'char' | 'bpe';
  /** Ids are 0 to vocabSize - 1. */
  readonly vocabSize: number;
  /** Token ids of a text. @throws DataError on a character that a char tokenizer has never seen. */
  encode(text: string): Int32Array;
  /** The text of token ids; bytes that are not valid UTF-8 show as U+FFFD. @throws RangeError on an id out of range. */
  decode(ids: ArrayLike<number>): string;
  /** Plain data for `tokenizerFromJSON`; what `tokenizer.json` of a run holds. */
  toJSON(): TokenizerJSON;
}

/** The saved form of a tokenizer. */
export type TokenizerJSON =
  | {
      readonly format: 'plexus-tokenizer';
      readonly version: 1;
      readonly kind: 'char';
      readonly characters: readonly string[];
    }
  | {
      readonly format: 'plexus-tokenizer';
      readonly version: 1;
      readonly kind: 'bpe';
      /** Merge i makes token 256 + i out of two earlier ones; tokens 0 to 255 are the bytes. */
      readonly merges: readonly (readonly [number, number])[];
    };
