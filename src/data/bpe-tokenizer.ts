import { Buffer } from 'node:buffer';
import { type Merge, type Trained, trainMerges, trainWords } from './bpe-train.ts';
import { DataError } from './errors.ts';
import { KnownWords } from './known-words.ts';
import { PairTable } from './pair-table.ts';
import { pieceEnd } from './pieces.ts';
import type { Tokenizer, TokenizerJSON } from './tokenizer.ts';

const BYTES = 256;
const PAIR = 65536;

/**
 * Byte-level byte-pair encoding: tokens 0 to 255 are the bytes, each merge adds a token. Any byte sequence is encoded
 * and restored exactly; there is no unknown token.
 */
export class BpeTokenizer implements Tokenizer {
  readonly kind = 'bpe';
  private readonly merges: readonly Merge[];
  /** Token that a pair becomes, or 0 (a byte, which none becomes); lower ones go first. */
  private readonly merged: PairTable;
  /** Bytes of each token. */
  private readonly bytes: readonly Uint8Array[];
  private known = KnownWords.none();

  /** @throws DataError if a merge refers to a token that does not exist yet. */
  constructor(merges: readonly Merge[]) {
    if (BYTES + merges.length > PAIR)
      throw new DataError(`a bpe tokenizer has at most ${PAIR} tokens, but ${BYTES + merges.length} are given`);
    const bytes = Array.from({ length: BYTES }, (_, byte) => Uint8Array.of(byte));
    for (const [i, [left, right]] of merges.entries()) {
      const a = bytes[left];
      const b = bytes[right];
      if (!a || !b)
        throw new DataError(
          `merge ${i} of the bpe tokenizer is [${left}, ${right}], but only tokens 0 to ${bytes.length - 1} exist there`,
        );
      const joined = new Uint8Array(a.length + b.length);
      joined.set(a);
      joined.set(b, a.length);
      bytes.push(joined);
    }
    this.merges = merges;
    this.bytes = bytes;
    this.merged = new PairTable();
    for (const [i, [left, right]] of merges.entries()) this.merged.set(left, right, BYTES + i);
  }

  /** Learns merges on a corpus; the vocabulary is smaller than asked for if the corpus runs out of repeated pairs. */
  static train(corpus: Uint8Array, vocab: number): BpeTokenizer {
    return new BpeTokenizer(trainMerges(corpus, vocab));
  }

  /**
   * Learns merges like `train`, and gives the corpus's own token ids, the same that `encodeBytes` would: that is little
   * more than training, which has cut the corpus into words and has their tokens.
   */
  static trainAndEncode(corpus: Uint8Array, vocab: number): { tokenizer: BpeTokenizer; ids: Int32Array } {
    const trained = trainWords(corpus, vocab);
    const tokenizer = new BpeTokenizer(trained.merges);
    tokenizer.known = KnownWords.from(trained.words, trained.tokens, trained.starts);
    return { tokenizer, ids: encodePieces(trained) };
  }

  get vocabSize(): number {
    return this.bytes.length;
  }

  encode(text: string): Int32Array {
    return this.encodeBytes(new TextEncoder().encode(text));
  }

  decode(ids: ArrayLike<number>): string {
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(this.decodeBytes(ids));
  }

  /** Token ids of arbitrary bytes. */
  encodeBytes(bytes: Uint8Array): Int32Array {
    const { known } = this;
    const encode = (ids: Int32Array, from: number, to: number) => this.mergePiece(ids, from, to);
    const ids = new Int32Array(bytes.length);
    let length = 0;
    for (let start = 0; start < bytes.length; ) {
      const end = pieceEnd(bytes, start);
      length = known.write(bytes, start, end, ids, length, encode);
      start = end;
    }
    return ids.slice(0, length);
  }

  /** The exact bytes of token ids. @throws RangeError on an id out of range. */
  decodeBytes(ids: ArrayLike<number>): Uint8Array {
    const parts = Array.from(ids, (id) => {
      const part = this.bytes[id];
      if (!part) throw new RangeError(`there is no token ${id}; ids are 0 to ${this.vocabSize - 1}`);
      return part;
    });
    return new Uint8Array(Buffer.concat(parts));
  }

  toJSON(): TokenizerJSON {
    return { format: 'plexus-tokenizer', version: 1, kind: 'bpe', merges: this.merges };
  }

  /** Applies the lowest merge first, all of its occurrences, until none applies, in place. @returns where the tokens end */
  private mergePiece(ids: Int32Array, from: number, to: number): number {
    const { merged } = this;
    for (let length = to; ; ) {
      let best = 0;
      for (let i = from; i + 1 < length; i++) {
        const token = merged.get(ids[i] as number, ids[i + 1] as number);
        if (token !== 0 && (best === 0 || token < best)) best = token;
      }
      if (best === 0) return length;
      const [left, right] = this.merges[best - BYTES] as Merge;
      let out = from;
      for (let i = from; i < length; i++) {
        const match = ids[i] === left && i + 1 < length && ids[i + 1] === right;
        ids[out++] = match ? best : (ids[i] as number);
        if (match) i++;
      }
      length = out;
    }
  }
}

/** Token ids of the corpus. */
function encodePieces({ pieces, counts, tokens, starts }: Trained): Int32Array {
  let length = 0;
  for (let word = 0; word < counts.length; word++)
    length += (counts[word] as number) * ((starts[word + 1] as number) - (starts[word] as number));
  const ids = new Int32Array(length);
  let at = 0;
  for (let i = 0; i < pieces.length; i++) {
    const word = pieces[i] as number;
    const end = starts[word + 1] as number;
    for (let j = starts[word] as number; j < end; j++) ids[at++] = tokens[j] as number;
  }
  return ids;
}
