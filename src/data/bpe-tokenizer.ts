import { Buffer } from 'node:buffer';
import { type Merge, trainMerges } from './bpe-train.ts';
import { DataError } from './errors.ts';
import { pieceEnd } from './pieces.ts';
import type { Tokenizer, TokenizerJSON } from './tokenizer.ts';

const BYTES = 256;
const PAIR = 65536;
/** Pieces whose tokens are remembered: text repeats its words. */
const CACHE_LIMIT = 100_000;

/**
 * Byte-level byte-pair encoding: tokens 0 to 255 are the bytes, each merge adds a token. Any byte sequence is encoded
 * and restored exactly; there is no unknown token.
 */
export class BpeTokenizer implements Tokenizer {
  readonly kind = 'bpe';
  private readonly merges: readonly Merge[];
  /** Rank of a pair: the merge's number; lower merges go first. */
  private readonly ranks: ReadonlyMap<number, number>;
  /** Bytes of each token. */
  private readonly bytes: readonly Uint8Array[];
  private readonly cache = new Map<string, readonly number[]>();

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
    this.ranks = new Map(merges.map(([left, right], rank) => [left * PAIR + right, rank]));
  }

  /** Learns merges on a corpus; the vocabulary is smaller than asked for if the corpus runs out of repeated pairs. */
  static train(corpus: Uint8Array, vocab: number): BpeTokenizer {
    return new BpeTokenizer(trainMerges(corpus, vocab));
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
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    const ids = new Int32Array(bytes.length);
    let length = 0;
    for (let start = 0; start < bytes.length; ) {
      const end = pieceEnd(bytes, start);
      const key = buffer.toString('latin1', start, end);
      let piece = this.cache.get(key);
      if (!piece) {
        piece = this.mergePiece([...bytes.subarray(start, end)]);
        if (this.cache.size < CACHE_LIMIT) this.cache.set(key, piece);
      }
      for (const id of piece) ids[length++] = id;
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

  /** Applies the merges of lowest rank first, all of their occurrences, until none applies. */
  private mergePiece(tokens: number[]): number[] {
    for (;;) {
      let best = Number.POSITIVE_INFINITY;
      for (let i = 0; i + 1 < tokens.length; i++) {
        const rank = this.ranks.get((tokens[i] as number) * PAIR + (tokens[i + 1] as number));
        if (rank !== undefined && rank < best) best = rank;
      }
      if (best === Number.POSITIVE_INFINITY) return tokens;
      const [left, right] = this.merges[best] as Merge;
      let out = 0;
      for (let i = 0; i < tokens.length; i++) {
        const match = tokens[i] === left && tokens[i + 1] === right;
        tokens[out++] = match ? BYTES + best : (tokens[i] as number);
        if (match) i++;
      }
      tokens.length = out;
    }
  }
}
