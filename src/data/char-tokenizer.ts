import { DataError } from './errors.ts';
import type { Tokenizer, TokenizerJSON } from './tokenizer.ts';

/** A token for each Unicode code point that occurs in the corpus, in code point order. */
export class CharTokenizer implements Tokenizer {
  readonly kind = 'char';
  private readonly characters: readonly string[];
  private readonly ids: ReadonlyMap<string, number>;

  constructor(characters: readonly string[]) {
    this.characters = characters;
    this.ids = new Map(characters.map((char, id) => [char, id]));
    if (this.ids.size !== characters.length) throw new DataError('a char tokenizer must not list a character twice');
  }

  /** Collects the characters of a text. */
  static train(text: string): CharTokenizer {
    const points = [...new Set(text)].map((char) => char.codePointAt(0) as number).sort((a, b) => a - b);
    return new CharTokenizer(points.map((point) => String.fromCodePoint(point)));
  }

  get vocabSize(): number {
    return this.characters.length;
  }

  encode(text: string): Int32Array {
    const ids = new Int32Array(text.length);
    let length = 0;
    for (const char of text) {
      const id = this.ids.get(char);
      if (id === undefined) {
        const point = (char.codePointAt(0) as number).toString(16).toUpperCase().padStart(4, '0');
        throw new DataError(
          `character ${JSON.stringify(char)} (U+${point}), number ${length + 1} of the text, is not among the ${this.vocabSize} that this char tokenizer was trained on; use other text or a bpe tokenizer`,
        );
      }
      ids[length++] = id;
    }
    return ids.slice(0, length);
  }

  decode(ids: ArrayLike<number>): string {
    return Array.from(ids, (id) => {
      const char = this.characters[id];
      if (char === undefined) throw new RangeError(`there is no token ${id}; ids are 0 to ${this.vocabSize - 1}`);
      return char;
    }).join('');
  }

  toJSON(): TokenizerJSON {
    return { format: 'plexus-tokenizer', version: 1, kind: 'char', characters: this.characters };
  }
}
