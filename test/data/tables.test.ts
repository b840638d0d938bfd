import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BpeTokenizer } from '../../src/data/index.ts';
import { countPairs } from '../../src/data/pair-counts.ts';
import { PairTable } from '../../src/data/pair-table.ts';
import { pieceEnd } from '../../src/data/pieces.ts';
import { WordTable } from '../../src/data/word-table.ts';

const letters = fc.constantFrom(0x61, 0x62, 0x20, 0xe2, 0x80, 0x99, 0x31);
const words = fc.array(fc.uint8Array({ minLength: 1, maxLength: 6, max: 3 }), { maxLength: 400 });
/** Bytes with pieces that come again, which random ones hardly have. */
const texts = fc.oneof(
  fc.uint8Array({ maxLength: 300 }),
  fc.array(letters, { maxLength: 600 }).map((bytes) => Uint8Array.from(bytes)),
);
/** Merges in any order, of tokens that exist by then, not as training would choose them; some twice. */
const merges = fc
  .array(fc.tuple(fc.nat(), fc.nat()), { maxLength: 40 })
  .map((pairs) => pairs.map(([left, right], i): [number, number] => [among(left, i), among(right, i)]));

/** Often a letter of the texts or an earlier merge, so that merges build on each other. */
function among(choice: number, merged: number): number {
  const likely = [0x61, 0x62, 0x20, 0x80, 0xe2, ...Array.from({ length: merged }, (_, i) => 256 + i)];
  return choice % 5 === 0 ? choice % 256 : (likely[choice % likely.length] as number);
}

/** Merge by merge over each piece, in their order: what byte-pair encoding is. */
function slowEncode(bytes: Uint8Array, merges: readonly (readonly [number, number])[]): number[] {
  const out: number[] = [];
  for (let start = 0; start < bytes.length; ) {
    const end = pieceEnd(bytes, start);
    let piece = [...bytes.subarray(start, end)];
    for (const [rank, [left, right]] of merges.entries()) {
      // Of a merge that is given twice the later one counts.
      if (merges.slice(rank + 1).some(([a, b]) => a === left && b === right)) continue;
      const next: number[] = [];
      for (let i = 0; i < piece.length; i++) {
        const match = piece[i] === left && piece[i + 1] === right;
        next.push(match ? 256 + rank : (piece[i] as number));
        if (match) i++;
      }
      piece = next;
    }
    out.push(...piece);
    start = end;
  }
  return out;
}

describe('byte-pair encoding', () => {
  it('is what applying one merge after another gives, for any merges and bytes', () => {
    fc.assert(
      fc.property(merges, fc.array(texts, { minLength: 1, maxLength: 3 }), (merges, texts) => {
        const bpe = new BpeTokenizer(merges);
        for (const bytes of texts) expect([...bpe.encodeBytes(bytes)]).toEqual(slowEncode(bytes, merges));
      }),
    );
  });

  it('of a corpus comes with training as it would come afterwards, and other text is encoded the same', () => {
    fc.assert(
      fc.property(texts, texts, fc.integer({ min: 256, max: 300 }), (corpus, other, vocab) => {
        const { tokenizer, ids } = BpeTokenizer.trainAndEncode(corpus, vocab);
        const fresh = BpeTokenizer.train(corpus, vocab);
        expect(tokenizer.toJSON()).toEqual(fresh.toJSON());
        expect(ids).toEqual(fresh.encodeBytes(corpus));
        expect(tokenizer.encodeBytes(other)).toEqual(fresh.encodeBytes(other));
        expect(tokenizer.encodeBytes(corpus)).toEqual(ids);
      }),
    );
  });

  it('remembers only so many words, and encodes more', () => {
    const bytes = new TextEncoder().encode(Array.from({ length: 110_000 }, (_, i) => `${i}`).join('|'));
    const { tokenizer, ids } = BpeTokenizer.trainAndEncode(bytes, 300);
    // Compared as memory: element by element takes seconds.
    for (let time = 0; time < 2; time++)
      expect(Buffer.compare(Buffer.from(tokenizer.encodeBytes(bytes).buffer), Buffer.from(ids.buffer))).toBe(0);
    expect(Buffer.compare(tokenizer.decodeBytes(ids), bytes)).toBe(0);
  });
});

describe('tables', () => {
  it('number words as they first come, up to a limit', () => {
    fc.assert(
      fc.property(words, fc.integer({ min: 0, max: 200 }), (words, limit) => {
        const table = new WordTable();
        const known = new Map<string, number>();
        for (const word of words) {
          const key = word.join();
          if (!known.has(key) && known.size < limit) known.set(key, known.size);
          expect(table.numberOf(Uint8Array.of(9, ...word, 9), 1, 1 + word.length, limit)).toBe(known.get(key) ?? -1);
        }
        expect(table.size).toBe(known.size);
        const [bytes, starts] = [table.allBytes(), table.allStarts()];
        const all = Array.from({ length: table.size }, (_, i) => bytes.subarray(starts[i], starts[i + 1]).join());
        expect(all).toEqual([...known.keys()]);
        expect(starts[table.size]).toBe(bytes.length);
      }),
    );
  });

  it('hold values of pairs, however large', () => {
    const number = fc.oneof(fc.nat(3), fc.constantFrom(65535, 2 ** 20, 2 ** 31 - 1));
    fc.assert(
      fc.property(fc.array(fc.tuple(number, number, fc.integer({ min: 1, max: 2 ** 32 - 1 }))), (entries) => {
        const table = new PairTable();
        for (const [left, right, value] of entries) table.set(left, right, value);
        const wanted = new Map(entries.map(([left, right, value]) => [`${left},${right}`, value]));
        const found = new Map<string, number>();
        table.forEach((left, right, value) => {
          found.set(`${left},${right}`, value);
          expect(table.get(left, right)).toBe(value);
        });
        expect(found).toEqual(wanted);
        expect(table.size).toBe(wanted.size);
        expect(table.get(4, 4)).toBe(0);
      }),
    );
  });

  it.each([7, 2048, 2049, 65536])('count neighbours among %d tokens', (vocab) => {
    const token = fc.nat(6).map((n) => (n < 4 ? n : vocab - n + 3));
    fc.assert(
      fc.property(fc.array(token, { maxLength: 100 }), (tokens) => {
        const counts = countPairs(tokens, vocab);
        const wanted = new Map<string, number>();
        for (let i = 1; i < tokens.length; i++) {
          const key = `${tokens[i - 1]},${tokens[i]}`;
          wanted.set(key, (wanted.get(key) ?? 0) + 1);
        }
        const found = new Map<string, number>();
        counts.forEach((left, right, count) => {
          found.set(`${left},${right}`, count);
        });
        expect(found).toEqual(wanted);
        expect(counts.size).toBe(wanted.size);
        for (const left of tokens)
          for (const right of [0, vocab - 1]) expect(counts.get(left, right)).toBe(wanted.get(`${left},${right}`) ?? 0);
      }),
      { numRuns: vocab > 2000 ? 10 : 100 },
    );
  });
});
