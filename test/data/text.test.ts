import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { textBaselines } from '../../src/data/baselines.ts';
import {
  type Batch,
  BpeTokenizer,
  type DataConfig,
  dataSchema,
  openDataset,
  prepareData,
  type SplitName,
  tokenizerOf,
} from '../../src/data/index.ts';
import { createRng, type HostTensor } from '../../src/tensor/index.ts';

const firstInput = (batch: Batch) => batch.inputs[0] as HostTensor;

let dir: string;
const config = (section: object): DataConfig => dataSchema.parse(section);

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'text-'));
  const rng = createRng(1);
  const words = ['whale', 'sea', 'the', 'a', 'ship', 'Ahab', 'saw', '—'];
  const lines = Array.from(
    { length: 400 },
    (_, i) => `${i} ${Array.from({ length: 8 }, () => words[rng.integer(8)]).join(' ')}.`,
  );
  await writeFile(join(dir, 'corpus.txt'), `${lines.join('\n')}\n`);
});
afterAll(() => rm(dir, { recursive: true }));

const small = () =>
  config({
    name: 'text',
    path: join(dir, 'corpus.txt'),
    context: 16,
    validation: 0.2,
    test: 0.1,
    tokenizer: { vocab: 280 },
  });

describe('text', () => {
  it('is split in order, without overlap or loss', async () => {
    const prepared = await prepareData(small());
    const dataset = openDataset(prepared);
    const tokenizer = tokenizerOf(prepared) as BpeTokenizer;
    const text = await readFile(join(dir, 'corpus.txt'), 'utf8');
    const { tokens } = prepared as unknown as { tokens: Record<SplitName, { buffer: SharedArrayBuffer }> };
    const parts = (['train', 'validation', 'test'] as const).map((name) =>
      tokenizer.decode(new Uint16Array(tokens[name].buffer)),
    );
    expect(parts.join('')).toBe(text);
    expect(parts[1]?.length).toBeGreaterThan(text.length * 0.17);
    expect(parts.every((part) => part.endsWith('\n'))).toBe(true);
    expect(dataset.tokensPerExample).toBe(16);
    expect(dataset.info).toEqual({
      inputs: [{ dtype: 'int32', shape: [16] }],
      targets: [{ dtype: 'int32', shape: [16] }],
      vocabSize: 280,
    });
  });

  it('gives windows whose targets are the next tokens', async () => {
    const prepared = await prepareData({ ...small(), stride: 5 } as DataConfig);
    const train = openDataset(prepared).split('train');
    const { inputs, targets } = train.batch(Int32Array.of(0, 1, train.examples - 1));
    const [x, y] = [inputs[0], targets[0]] as [HostTensor, HostTensor];
    expect([x.shape, y.shape, x.dtype]).toEqual([[3, 16], [3, 16], 'int32']);
    const row = (t: typeof x, i: number) => [...t.data.slice(i * 16, (i + 1) * 16)];
    for (const i of [0, 1, 2]) expect(row(x, i).slice(1)).toEqual(row(y, i).slice(0, -1));
    expect(row(x, 1)).toEqual([...row(x, 0).slice(5), ...row(y, 0).slice(-1), ...row(x, 1).slice(12)]);
    expect(() => train.batch(Int32Array.of(train.examples))).toThrow(/text train has no example \d+; indices are 0 to/);
  });

  it('saves its tokenizer with the run and uses it again', async () => {
    const runDir = join(dir, 'run');
    await mkdir(runDir);
    const first = await prepareData(small(), { runDir });
    const path = join(runDir, 'tokenizer.json');
    const saved = await readFile(path, 'utf8');
    const fewer = JSON.stringify(BpeTokenizer.train(new TextEncoder().encode('the the the'), 260));
    expect((await prepareData(small(), { runDir })).info).toEqual(first.info);
    expect(await readFile(path, 'utf8')).toBe(saved);
    await writeFile(path, fewer);
    expect((await prepareData(small(), { runDir })).info.vocabSize).toBeLessThan(261);
    const byFile = config({ ...small(), tokenizer: { file: path } });
    expect((await prepareData(byFile)).info.vocabSize).toBeLessThan(261);
  });

  it('takes a folder, and a char tokenizer', async () => {
    const folder = join(dir, 'folder');
    await mkdir(folder);
    await writeFile(join(folder, 'b.txt'), 'bbbbbbbbbb'.repeat(10));
    await writeFile(join(folder, 'a.md'), 'aaaaaaaaaa'.repeat(10));
    await writeFile(join(folder, 'c.bin'), 'cccc');
    const prepared = await prepareData(config({ name: 'text', path: folder, context: 4, tokenizer: { kind: 'char' } }));
    expect(prepared.info.vocabSize).toBe(2);
    const batch = openDataset(prepared).split('train').batch(Int32Array.of(0));
    expect([...firstInput(batch).data]).toEqual([0, 0, 0, 0]);
  });

  it('crosses to another thread without a copy', async () => {
    const prepared = await prepareData(small());
    const worker = new Worker(
      `const { parentPort } = require('node:worker_threads');
       parentPort.once('message', (p) => { const t = new Uint16Array(p.tokens.train.buffer); t[0] = 65535; parentPort.postMessage('done'); });`,
      { eval: true },
    );
    worker.postMessage(prepared);
    await new Promise((resolve) => worker.once('message', resolve));
    await worker.terminate();
    expect(firstInput(openDataset(prepared).split('train').batch(Int32Array.of(0))).data[0]).toBe(65535);
  });

  it.each([
    [{ name: 'text', path: '/no/such/file.txt' }, /data\.path: \/no\/such\/file\.txt cannot be read: ENOENT/],
    [{ name: 'text', path: 'EMPTY' }, /data\.path: .*empty\.txt is empty/],
    [
      { name: 'text', path: 'CORPUS', context: 100_000 },
      /the train part has \d+ tokens, but one example takes data\.context \+ 1 = 100001/,
    ],
    [
      { name: 'text', path: 'CORPUS', context: 1000, validation: 0.01 },
      /the validation part has \d+ tokens.*larger data\.validation/,
    ],
    [{ name: 'text', path: 'CORPUS', validation: 0.6, test: 0.4 }, /must be below 1/],
    [{ name: 'text', path: 'NOTHING' }, /holds no \.txt or \.md files/],
  ])('refuses %j', async (section, message) => {
    await writeFile(join(dir, 'empty.txt'), '');
    await mkdir(join(dir, 'nothing'), { recursive: true });
    const path = section.path
      .replace('EMPTY', join(dir, 'empty.txt'))
      .replace('CORPUS', join(dir, 'corpus.txt'))
      .replace('NOTHING', join(dir, 'nothing'));
    await expect(prepareData(config({ ...section, path }))).rejects.toThrow(message);
  });
});

describe('baselines', () => {
  it('are proper distributions: probabilities after each token sum to one', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(4), { minLength: 1, maxLength: 40 }), fc.nat(4), (train, before) => {
        let unigram = 0;
        let bigram = 0;
        for (let next = 0; next < 5; next++) {
          const loss = textBaselines(train, 5, { tokens: [before, next], context: 1, stride: 1 }, [0]);
          unigram += Math.exp(-loss.unigram);
          bigram += Math.exp(-loss.bigram);
        }
        expect(unigram).toBeCloseTo(1, 9);
        expect(bigram).toBeCloseTo(1, 9);
      }),
    );
  });

  it('of a deterministic cycle: bigrams know the next token, unigrams do not', () => {
    const cycle = Array.from({ length: 4000 }, (_, i) => i % 4);
    const { unigram, bigram } = textBaselines(cycle, 4, { tokens: cycle, context: 10, stride: 10 }, [0, 1, 2]);
    expect(unigram).toBeCloseTo(Math.log(4), 4);
    expect(bigram).toBeLessThan(0.01);
  });

  it('of Moby-Dick are in the range that the text allows, and can be limited to some examples', async () => {
    const prepared = await prepareData(config({ name: 'moby-dick', tokenizer: { vocab: 512 } }));
    const dataset = openDataset(prepared);
    const { unigram, bigram } = dataset.baselines() as { unigram: number; bigram: number };
    expect(unigram).toBeGreaterThan(5);
    expect(unigram).toBeLessThan(5.5);
    expect(bigram).toBeGreaterThan(3.5);
    expect(bigram).toBeLessThan(3.9);
    expect(dataset.baselines(Int32Array.of(0, 5)).bigram).not.toBe(bigram);
    expect(dataset.split('train').examples).toBeGreaterThan(4000);
  });
});
