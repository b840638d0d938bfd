import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  DataError,
  dataSchema,
  naturalKeys,
  openDataset,
  type PreparedData,
  prepareData,
  tokenizerOf,
} from '../../../src/data/index.ts';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'natural-'));
});
afterAll(() => rm(dir, { recursive: true }));

/** The text of a training window. */
function windowText(data: PreparedData, window: number): string {
  const { inputs } = openDataset(data).split('train').batch(Int32Array.of(window));
  return tokenizerOf(data)?.decode(inputs[0]?.data as Int32Array) ?? '';
}

describe('natural keys', () => {
  it('are any column of a CSV file, for the rows to train on in their order', async () => {
    const path = join(dir, 'table.csv');
    const rows = Array.from({ length: 40 }, (_, i) => `${i},w${i % 3},${i % 2 === 0 ? 'even' : 'odd'}`);
    await writeFile(path, `x,writer,label\n${rows.join('\n')}\n`);
    const config = dataSchema.parse({ name: 'csv', path, columns: ['x'], validation: 0.2, normalise: false });
    const data = await prepareData(config);
    const split = openDataset(data).split('train');
    const writers = await naturalKeys(config, data, 'writer');
    expect(writers).toHaveLength(32);
    for (let i = 0; i < writers.length; i++) {
      const x = split.batch(Int32Array.of(i)).inputs[0]?.data[0] as number;
      expect(writers[i]).toBe(`w${x % 3}`);
    }
    await expect(naturalKeys(config, data, 'writter')).rejects.toThrow(/no column 'writter'; it has x, writer, label/);
  });

  it.each(['bpe', 'char'])('are the files that windows of text begin in: %s', async (kind) => {
    const folder = join(dir, `texts-${kind}`);
    await mkdir(folder);
    const letters = { 'a.txt': 'aä', 'b.txt': 'b€', 'c.md': 'c', 'd.txt': 'd' };
    for (const [name, letter] of Object.entries(letters))
      await writeFile(join(folder, name), `${letter.repeat(9)}\n`.repeat(30));
    const config = dataSchema.parse({
      name: 'text',
      path: folder,
      context: 8,
      validation: 0.1,
      tokenizer: { kind, vocab: 270 },
    });
    const data = await prepareData(config);
    const keys = await naturalKeys(config, data, 'document');
    expect(keys).toHaveLength(openDataset(data).split('train').examples);
    expect([...new Set(keys)]).toEqual(['a.txt', 'b.txt', 'c.md', 'd.txt']);
    const own = { 'a.txt': /[aä]/, 'b.txt': /[b€]/, 'c.md': /c/, 'd.txt': /d/ };
    keys.forEach((key, window) => {
      expect(windowText(data, window).trim().charAt(0)).toMatch(own[key as keyof typeof own]);
    });
    await expect(naturalKeys(config, data, 'author')).rejects.toThrow(/no key 'author'; it has document/);
  });

  it('are president, party and year of speeches, of which each one has a part in every split', async () => {
    const folder = join(dir, 'speeches');
    await mkdir(folder);
    const speech = (letter: string) => `${letter} says something of importance. `.repeat(40);
    await writeFile(join(folder, '1801_john_adams_f.txt'), speech('J'));
    await writeFile(join(folder, '1802_john_adams_f.txt'), speech('J'));
    await writeFile(join(folder, '1861_abe_lincoln_r.txt'), speech('L'));
    await writeFile(join(folder, '2001_someone_else_d.txt'), speech('S'));
    await writeFile(join(folder, 'README.txt'), 'nothing of importance');
    const config = dataSchema.parse({
      name: 'sotu',
      path: folder,
      to_year: 1999,
      context: 16,
      validation: 0.2,
      tokenizer: { vocab: 270 },
    });
    const data = await prepareData(config);
    expect([...new Set(await naturalKeys(config, data, 'president'))]).toEqual(['John Adams', 'Abe Lincoln']);
    expect([...new Set(await naturalKeys(config, data, 'year'))]).toEqual(['1801', '1802', '1861']);
    expect([...new Set(await naturalKeys(config, data, 'party'))]).toEqual(['Federalist', 'Republican']);
    const validation = openDataset(data).split('validation');
    const windows = Int32Array.from({ length: validation.examples }, (_, i) => i);
    const text = tokenizerOf(data)?.decode(validation.batch(windows).inputs[0]?.data as Int32Array) ?? '';
    for (const letter of ['J says', 'L says']) expect(text).toContain(letter);
    expect(text).not.toContain('S says');
    const none = dataSchema.parse({ name: 'sotu', path: folder, from_year: 1990, to_year: 1999 });
    await expect(prepareData(none)).rejects.toThrow(DataError);
  });

  it('are not known of images', async () => {
    const config = dataSchema.parse({ name: 'mnist' });
    await expect(naturalKeys(config, { kind: 'images' } as PreparedData, 'writer')).rejects.toThrow(/no natural keys/);
  });
});
