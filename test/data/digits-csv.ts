import { openDataset, prepareData, type SplitName } from '../../src/data/index.ts';

/** Blocks of 4 x 4 pixels along each side of an image. */
const SIDE = 7;
const BLOCK = 4;

/**
 * Handwritten digits of MNIST as the CSV file that somebody might have: a row an image, a column for each block of pixels with its
 * mean ink from 0 to 9, and the digit last.
 */
export async function digitsCsv(split: SplitName, from: number, to: number): Promise<string> {
  const images = openDataset(await prepareData({ name: 'mnist', path: null, limit: null, ...plain })).split(split);
  const { inputs, targets } = images.batch(Int32Array.from({ length: to - from }, (_, i) => from + i));
  const [pixels, digits] = [inputs[0]?.data as Float32Array, targets[0]?.data as Int32Array];
  const blocks = Array.from({ length: SIDE * SIDE }, (_, i) => [Math.floor(i / SIDE), i % SIDE] as const);
  const header = [...blocks.map(([row, column]) => `r${row}c${column}`), 'digit'];
  const rows = Array.from(digits, (digit, image) => [
    ...blocks.map(([row, column]) => ink(pixels, image, row * BLOCK, column * BLOCK)),
    digit,
  ]);
  return `${[header, ...rows].map((cells) => cells.join()).join('\n')}\n`;
}

const plain = { validation: 0, normalise: false, pad: 0 } as const;

function ink(pixels: Float32Array, image: number, top: number, left: number): number {
  const width = SIDE * BLOCK;
  let sum = 0;
  for (let y = top; y < top + BLOCK; y++)
    for (let x = left; x < left + BLOCK; x++) sum += pixels[(image * width + y) * width + x] as number;
  return Math.round((9 * sum) / BLOCK ** 2);
}
