import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseCsv } from '../../src/data/csv.ts';
import { type Batch, dataSchema, openDataset, prepareData } from '../../src/data/index.ts';
import type { HostTensor } from '../../src/tensor/index.ts';

const firstInput = (batch: Batch) => batch.inputs[0] as HostTensor;

let dir: string;
let files = 0;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'csv-'));
});
afterAll(() => rm(dir, { recursive: true }));

async function prepare(text: string, more: object = {}) {
  const path = join(dir, `t${files++}.csv`);
  await writeFile(path, text);
  return prepareData(dataSchema.parse({ name: 'csv', path, ...more }));
}

describe('parseCsv', () => {
  it('reads what was written, whatever is in the cells', () => {
    const cell = fc.string({ unit: fc.constantFrom('a', ',', '"', '\n', ' ', 'é', '\r\n'), maxLength: 6 });
    fc.assert(
      fc.property(
        fc
          .integer({ min: 2, max: 4 })
          .chain((n) => fc.array(fc.array(cell, { minLength: n, maxLength: n }), { minLength: 1, maxLength: 5 })),
        (rows) => {
          const header = (rows[0] as string[]).map((_, i) => `c${i}`);
          const quote = (x: string) => `"${x.replaceAll('"', '""')}"`;
          const text = [header, ...rows].map((row) => row.map(quote).join(',')).join('\r\n');
          expect(parseCsv(text, ',', 'f').rows).toEqual(rows);
        },
      ),
    );
  });

  it('trims plain cells, skips blank lines, and knows on which line a row begins', () => {
    const table = parseCsv('\uFEFFa; b\n\n 1 ;"x\ny"\r\n2;3', ';', 'f');
    expect(table).toEqual({
      header: ['a', 'b'],
      rows: [
        ['1', 'x\ny'],
        ['2', '3'],
      ],
      lines: [3, 5],
    });
  });

  it.each([
    ['', /f: expected a header line/],
    ['a,b\n', /f: there is a header but no rows/],
    ['a,,c\n1,2,3', /f:1: column 2 of the header has no name/],
    ['a,b,a\n1,2,3', /f:1: columns 1 and 3 are both called 'a'/],
    ['a,b\n1,2\n1,2,3\n', /f:3: expected 2 cells, as in the header, found 3/],
    ['a,b\n1,"2\n3', /f:2: the quote that opens cell 2 is never closed/],
    ['a,b\n"1"x,2', /f:2: after the closing quote of cell 1 expected "," or the end of the line, found "x"/],
  ])('refuses %j', (text, message) => {
    expect(() => parseCsv(text, ',', 'f')).toThrow(message);
  });
});

describe('tables', () => {
  const rows = Array.from({ length: 40 }, (_, i) => `${i},${i % 2 ? 'red' : 'blue'},${i * 0.5},${i % 3}`);
  const text = ['x,colour,half,y', ...rows].join('\n');

  it('become numbers, one-hot categories and class labels', async () => {
    const prepared = await prepare(text, { validation: 0.25, test: 0.1, normalise: false });
    expect(prepared.info).toEqual({
      inputs: [{ dtype: 'float32', shape: [4] }],
      targets: [{ dtype: 'int32', shape: [] }],
      classes: 3,
    });
    const dataset = openDataset(prepared);
    expect((['train', 'validation', 'test'] as const).map((name) => dataset.split(name).examples)).toEqual([26, 10, 4]);
    const seen = new Set<number>();
    for (const name of ['train', 'validation', 'test'] as const) {
      const split = dataset.split(name);
      const { inputs, targets } = split.batch(Int32Array.from({ length: split.examples }, (_, i) => i));
      for (let i = 0; i < split.examples; i++) {
        const [x, blue, red, half] = (inputs[0] as HostTensor).data.slice(i * 4, i * 4 + 4) as unknown as [
          number,
          number,
          number,
          number,
        ];
        seen.add(x);
        expect([blue, red, half, (targets[0] as HostTensor).data[i]]).toEqual([
          x % 2 ? 0 : 1,
          x % 2 ? 1 : 0,
          x / 2,
          x % 3,
        ]);
      }
    }
    expect(seen.size).toBe(40);
    expect(dataset.baselines().prior).toBeGreaterThan(0.5);
  });

  it('are normalised by their training rows', async () => {
    const train = openDataset(await prepare(text, { columns: ['x'] })).split('train');
    const values = Array.from(
      firstInput(train.batch(Int32Array.from({ length: train.examples }, (_, i) => i))).data as Float32Array,
    );
    expect(values.reduce((a, b) => a + b, 0) / values.length).toBeCloseTo(0, 5);
    expect(values.reduce((a, b) => a + b * b, 0) / values.length).toBeCloseTo(1, 5);
  });

  it('are split by seed alone', async () => {
    const first = async (split_seed: number) => {
      const split = openDataset(await prepare(text, { columns: ['x'], normalise: false, split_seed })).split(
        'validation',
      );
      return [...firstInput(split.batch(Int32Array.of(0, 1, 2, 3))).data];
    };
    expect(await first(1)).toEqual(await first(1));
    expect(await first(1)).not.toEqual(await first(2));
  });

  it('can be regressed on, with a baseline of the mean', async () => {
    const prepared = await prepare(text, { label: 'half', columns: ['x', 'y'], categorical: ['y'] });
    expect(prepared.info).toEqual({
      inputs: [{ dtype: 'float32', shape: [4] }],
      targets: [{ dtype: 'float32', shape: [1] }],
    });
    const dataset = openDataset(prepared);
    expect(dataset.split('train').batch(Int32Array.of(0, 1)).targets[0]?.shape).toEqual([2, 1]);
    expect(dataset.baselines().mean).toBeGreaterThan(1);
  });

  it('have empty numbers filled if asked', async () => {
    const prepared = await prepare('a,b\n1,0\n3,1\n,0\n2,1\n', {
      missing: 'fill',
      validation: 0,
      normalise: false,
      task: 'regression',
    });
    const { data } = openDataset(prepared)
      .split('train')
      .batch(Int32Array.of(0, 1, 2, 3)).inputs[0] as HostTensor;
    expect([...data].sort()).toEqual([1, 2, 2, 3]);
  });

  it.each([
    [
      'a,b\n1,0\noops,1\n2,0\n',
      {},
      /t\d+\.csv:3: column 'a': expected a number, found "oops"; correct it or list the column under data\.categorical/,
    ],
    [
      'a,b\n1,0\n,1\n',
      { validation: 0 },
      /t\d+\.csv:3: column 'a': the cell is empty; fill it in or set data\.missing: fill/,
    ],
    ['a,b\n1,0\n2,\n', {}, /t\d+\.csv:3: column 'b': the label is empty/],
    ['a,b\n1,0\n2,1\n', { label: 'c' }, /data\.label: .* has no column 'c'; it has a, b/],
    ['a,b\n1,0\n2,1\n', { columns: ['z'], validation: 0 }, /data\.columns: .* has no column 'z'/],
    ['a,b\n1,0\n2,1\n', { columns: ['b'], validation: 0 }, /data\.columns lists 'b', which is the label/],
    ['b\n1\n2\n', { validation: 0 }, /no columns besides the label 'b'/],
    ['a,b\n1,x\n2,x\n', { validation: 0 }, /every label in column 'b' is "x"/],
    [
      'a,b\n1,x\n2,y\n',
      { validation: 0, task: 'regression' },
      /csv:2: column 'b': expected a number as label, found "x"/,
    ],
    ['a,b\n1,0\n2,1\n', { validation: 0.1 }, /2 rows split into 2 to train on, 0 to validate on/],
  ])('%j with %j is refused', async (table, more, message) => {
    await expect(prepare(table, { validation: 0.34, ...more })).rejects.toThrow(message);
  });

  it('that do not exist are refused', async () => {
    await expect(prepareData(dataSchema.parse({ name: 'csv', path: join(dir, 'none.csv') }))).rejects.toThrow(
      /data\.path: .*none\.csv cannot be read/,
    );
  });
});

describe('the config section', () => {
  it('has defaults for every key and refuses unknown ones', () => {
    expect(dataSchema.parse(undefined)).toEqual({
      name: 'moby-dick',
      context: 128,
      stride: null,
      validation: 0.1,
      test: 0,
      tokenizer: { kind: 'bpe', vocab: 1024, file: null },
    });
    for (const bad of [
      { name: 'cifar' },
      { name: 'text' },
      { name: 'mnist', context: 3 },
      { name: 'moby-dick', context: 0 },
      { name: 'moby-dick', tokenizer: { kind: 'bpe', vocab: 100 } },
    ])
      expect(dataSchema.safeParse(bad).success, JSON.stringify(bad)).toBe(false);
  });
});
