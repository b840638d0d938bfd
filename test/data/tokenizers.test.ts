import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { trainMerges } from '../../src/data/bpe-train.ts';
import {
  BpeTokenizer,
  CharTokenizer,
  DataError,
  loadTokenizer,
  saveTokenizer,
  tokenizerFromJSON,
} from '../../src/data/index.ts';
import { pieceEnd } from '../../src/data/pieces.ts';

const utf8 = (text: string) => new TextEncoder().encode(text);
const corpus =
  `“Call me Ishmael,” he said. It’s some 40 years ago—never mind how long precisely—and I don't care.\n\n  The sea, the sea! `.repeat(
    20,
  );
const bpe = BpeTokenizer.train(utf8(corpus), 400);

function pieces(text: string): string[] {
  const bytes = utf8(text);
  const out: string[] = [];
  for (let start = 0; start < bytes.length; ) {
    const end = pieceEnd(bytes, start);
    out.push(new TextDecoder().decode(bytes.subarray(start, end)));
    start = end;
  }
  return out;
}

/** The textbook algorithm: recount everything after each merge. */
function slowMerges(bytes: Uint8Array, vocab: number): [number, number][] {
  let words: number[][] = [];
  for (let start = 0; start < bytes.length; ) {
    const end = pieceEnd(bytes, start);
    words.push([...bytes.subarray(start, end)]);
    start = end;
  }
  const merges: [number, number][] = [];
  while (256 + merges.length < vocab) {
    const counts = new Map<number, number>();
    for (const word of words)
      for (let i = 0; i + 1 < word.length; i++) {
        const pair = (word[i] as number) * 65536 + (word[i + 1] as number);
        counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    const best = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0])[0];
    if (!best || best[1] < 2) break;
    const [left, right] = [Math.floor(best[0] / 65536), best[0] % 65536];
    words = words.map((word) => {
      const out: number[] = [];
      for (let i = 0; i < word.length; i++)
        if (word[i] === left && word[i + 1] === right) {
          out.push(256 + merges.length);
          i++;
        } else out.push(word[i] as number);
      return out;
    });
    merges.push([left, right]);
  }
  return merges;
}

describe('pieces', () => {
  it('keep words with their space, and split off punctuation, numbers and space', () => {
    expect(pieces("It's 42 whales!  Ahoy\n\n the—sea “Ça”")).toEqual([
      ...['It', "'s", ' 42', ' whales', '!', ' ', ' Ahoy', '\n\n', ' the', '—', 'sea', ' “', 'Ça', '”'],
    ]);
  });

  it('cover any bytes without gap', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        for (let start = 0; start < bytes.length; ) {
          const end = pieceEnd(bytes, start);
          expect(end).toBeGreaterThan(start);
          expect(end).toBeLessThanOrEqual(bytes.length);
          start = end;
        }
      }),
    );
  });
});

describe('byte-pair encoding', () => {
  it('restores any bytes exactly', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(bpe.decodeBytes(bpe.encodeBytes(bytes))).toEqual(bytes);
      }),
    );
  });

  it('restores any text exactly', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ unit: 'binary' }),
          fc.string({ unit: fc.constantFrom('the', ' ', 'sea', '—', "'s", '\n') }),
        ),
        (text) => {
          expect(bpe.decode(bpe.encode(text))).toBe(text);
        },
      ),
    );
    expect(bpe.decode(bpe.encode('\uFEFFa'))).toBe('\uFEFFa');
  });

  it('compresses what it was trained on', () => {
    const ids = bpe.encode(corpus);
    expect(ids.length).toBeLessThan(utf8(corpus).length / 2.5);
    expect(ids.every((id) => id >= 0 && id < bpe.vocabSize)).toBe(true);
  });

  it('learns the merges of the textbook algorithm', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom('a', 'b', 'c', ' ', 'ab', 'é'), maxLength: 120 }), (text) => {
        expect(trainMerges(utf8(text), 300)).toEqual(slowMerges(utf8(text), 300));
      }),
      { numRuns: 60 },
    );
    expect(trainMerges(utf8(corpus), 330)).toEqual(slowMerges(utf8(corpus), 330));
  });

  it('stops when no pair repeats', () => {
    expect(BpeTokenizer.train(utf8('abcd'), 1000).vocabSize).toBe(256);
    expect(BpeTokenizer.train(new Uint8Array(0), 300).vocabSize).toBe(256);
  });

  it('refuses ids and merges that do not exist', () => {
    expect(() => bpe.decode([70000])).toThrow(/there is no token 70000; ids are 0 to/);
    expect(() => new BpeTokenizer([[256, 1]])).toThrow(/merge 0 .* \[256, 1\], but only tokens 0 to 255 exist/);
  });
});

describe('the char tokenizer', () => {
  it('restores text of its characters, beyond the basic plane too', () => {
    const char = CharTokenizer.train('héllo 🐋\n');
    expect(char.vocabSize).toBe(7);
    expect(char.decode(char.encode('🐋 olé 🐋'))).toBe('🐋 olé 🐋');
    expect([...char.encode('\n 🐋')]).toEqual([0, 1, 6]);
  });

  it('names a character it does not know', () => {
    expect(() => CharTokenizer.train('abc').encode('ab☃')).toThrow(
      /character "☃" \(U\+2603\), number 3 of the text, is not among the 3/,
    );
  });
});

describe('saved tokenizers', () => {
  it('come back from JSON and files', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'tokenizer-'));
    for (const tokenizer of [bpe, CharTokenizer.train(corpus)]) {
      const path = join(dir, `${tokenizer.kind}.json`);
      await saveTokenizer(tokenizer, path);
      const loaded = await loadTokenizer(path);
      expect(loaded.kind).toBe(tokenizer.kind);
      expect(loaded.encode(corpus)).toEqual(tokenizer.encode(corpus));
      expect(tokenizerFromJSON(JSON.parse(JSON.stringify(tokenizer))).toJSON()).toEqual(tokenizer.toJSON());
    }
    await writeFile(join(dir, 'bad.json'), '{"format": "other"}');
    await expect(loadTokenizer(join(dir, 'bad.json'))).rejects.toThrow(/bad\.json: not a saved tokenizer/);
    await expect(loadTokenizer(join(dir, 'none.json'))).rejects.toThrow(DataError);
    await rm(dir, { recursive: true });
  });
});
