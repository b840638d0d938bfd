import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseImages, readFashionPackage } from '../../src/data/fashion-package.ts';
import { dataSchema, openDataset, prepareData } from '../../src/data/index.ts';
import type { HostTensor } from '../../src/tensor/index.ts';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'images-'));
});
afterAll(() => rm(dir, { recursive: true }));

function idx(shape: number[], data: number[]): Uint8Array {
  const out = new Uint8Array(4 + 4 * shape.length + data.length);
  const view = new DataView(out.buffer);
  view.setUint32(0, 0x800 + shape.length);
  for (const [i, n] of shape.entries()) view.setUint32(4 + 4 * i, n);
  out.set(data, 4 + 4 * shape.length);
  return out;
}

/** A folder of tiny IDX files, some packed; `change` replaces files to spoil them. */
async function folder(name: string, change: Record<string, Uint8Array | null> = {}): Promise<string> {
  const path = join(dir, name);
  await mkdir(path);
  const pixels = (n: number) => Array.from({ length: n * 6 }, (_, i) => (i * 37) % 256);
  const files: Record<string, Uint8Array | null> = {
    'train-images-idx3-ubyte': idx([10, 2, 3], pixels(10)),
    'train-labels-idx1-ubyte.gz': gzipSync(idx([10], [0, 1, 2, 0, 1, 2, 0, 1, 2, 0])),
    't10k-images-idx3-ubyte.gz': gzipSync(idx([4, 2, 3], pixels(4))),
    't10k-labels-idx1-ubyte': idx([4], [2, 1, 0, 2]),
    ...change,
  };
  for (const [file, bytes] of Object.entries(files)) if (bytes) await writeFile(join(path, file), bytes);
  return path;
}

const prepare = (path: string, more: object = {}) =>
  prepareData(dataSchema.parse({ name: 'mnist', path, validation: 0.2, ...more }));

describe('IDX folders', () => {
  it('are read, plain or packed, and split', async () => {
    const prepared = await prepare(await folder('good'), { normalise: false });
    const dataset = openDataset(prepared);
    expect(prepared.info).toEqual({
      inputs: [{ dtype: 'float32', shape: [2, 3, 1] }],
      targets: [{ dtype: 'int32', shape: [] }],
      classes: 3,
    });
    expect((['train', 'validation', 'test'] as const).map((name) => dataset.split(name).examples)).toEqual([8, 2, 4]);
    const { inputs, targets } = dataset.split('train').batch(Int32Array.of(2, 0));
    expect(inputs[0]?.shape).toEqual([2, 2, 3, 1]);
    expect(inputs[0]?.data[6]).toBe(0);
    expect(inputs[0]?.data[7]).toBeCloseTo(37 / 255, 7);
    expect(targets[0]).toEqual({ dtype: 'int32', shape: [2], data: Int32Array.of(2, 0) });
    expect(dataset.baselines().prior).toBeGreaterThan(0.9);
  });

  it('are normalised over the images that are trained on', async () => {
    const dataset = openDataset(await prepare(await folder('normal'), { limit: 5 }));
    const train = dataset.split('train');
    expect(train.examples).toBe(4);
    const { data } = train.batch(Int32Array.of(0, 1, 2, 3)).inputs[0] as HostTensor;
    const values = Array.from(data as Float32Array);
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    expect(mean).toBeCloseTo(0, 5);
    expect(values.reduce((a, b) => a + b * b, 0) / values.length).toBeCloseTo(1, 5);
  });

  it('get black pixels around them', async () => {
    const dataset = openDataset(await prepare(await folder('padded'), { normalise: false, pad: 1 }));
    const { inputs } = dataset.split('test').batch(Int32Array.of(1));
    expect(inputs[0]?.shape).toEqual([1, 4, 5, 1]);
    const pixel = (i: number) => Math.fround(((i * 37) % 256) / 255);
    const [a, b] = [[6, 7, 8].map(pixel), [9, 10, 11].map(pixel)];
    const empty = [0, 0, 0, 0, 0];
    expect([...(inputs[0] as HostTensor).data]).toEqual([...empty, 0, ...a, 0, 0, ...b, 0, ...empty]);
  });

  it.each([
    [
      'missing',
      { 't10k-labels-idx1-ubyte': null },
      /has neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte\.gz/,
    ],
    [
      'foreign',
      { 'train-images-idx3-ubyte': new TextEncoder().encode('<html>oops, not here</html>') },
      /train-images-idx3-ubyte is not an IDX file .* begin with 0x00000803, found 0x3c68746d/,
    ],
    [
      'short',
      { 'train-images-idx3-ubyte': idx([10, 2, 3], [1, 2]) },
      /announces 10 x 2 x 3 = 60 bytes of data, but 2 follow/,
    ],
    ['unequal', { 't10k-labels-idx1-ubyte': idx([3], [0, 1, 2]) }, /t10k has 4 images but 3 labels/],
    [
      'unpackable',
      { 'train-labels-idx1-ubyte.gz': Uint8Array.of(1, 2, 3) },
      /train-labels-idx1-ubyte\.gz cannot be unpacked/,
    ],
  ])('that are %s are refused', async (name, change, message) => {
    await expect(prepare(await folder(name, change))).rejects.toThrow(message);
  });

  it('too small to split are refused', async () => {
    await expect(prepare(await folder('tiny'), { limit: 1 })).rejects.toThrow(
      /validation 0\.2 of 1 training images leaves 1 to train on and 0/,
    );
  });
});

describe('packages', () => {
  it('MNIST has 70,000 digits', async () => {
    const dataset = openDataset(await prepareData(dataSchema.parse({ name: 'mnist' })));
    expect((['train', 'validation', 'test'] as const).map((name) => dataset.split(name).examples)).toEqual([
      54_000, 6_000, 10_000,
    ]);
    const { inputs, targets } = dataset.split('test').batch(Int32Array.of(0, 1, 2));
    expect(inputs[0]?.shape).toEqual([3, 28, 28, 1]);
    expect([...(targets[0] as HostTensor).data]).toEqual([7, 2, 1]);
    expect(dataset.baselines().prior).toBeCloseTo(Math.log(10), 1);
  });

  it('fashion-mnist has its classes in turn, and a test part of its own', async () => {
    const clothes = join(dir, 'package', 'src', 'clothes');
    await mkdir(clothes, { recursive: true });
    for (let label = 0; label < 10; label++) {
      const image = (i: number) => Array.from({ length: 784 }, (_, p) => (p === 0 ? label : p === 1 ? i % 256 : 0));
      const images = Array.from({ length: 1003 + (label === 0 ? 1 : 0) }, (_, i) => image(i));
      await writeFile(join(clothes, `${label}.json`), JSON.stringify({ data: [...images, []] }));
    }
    const { train, test } = await readFashionPackage(join(dir, 'package'));
    expect(train.labels.length).toBe(31);
    expect(test.labels.length).toBe(10_000);
    expect([...train.labels.slice(0, 11)]).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]);
    for (const part of [train, test])
      for (const [i, label] of part.labels.entries())
        if (part.pixels[i * 784] !== label) expect.fail(`image ${i} is not of class ${label}`);
    expect([train.pixels[30 * 784 + 1], test.pixels[1]]).toEqual([3, 4]);
    expect(() => parseImages(new TextEncoder().encode('{"data":[[1,2,3]]}'), 'x.json')).toThrow(
      /x\.json: image 0 has 3 pixels, expected 784/,
    );
  });
});
