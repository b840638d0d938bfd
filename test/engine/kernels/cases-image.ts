import type { Tensor, Tensor3D, Tensor4D } from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { tf } from '../../../src/engine/index.ts';
import { anyOf, exactly, type Input, type KernelCase } from './harness.ts';

type Pad = 'same' | 'valid' | number;

const geometries: readonly { filter: [number, number]; stride: number; pad: Pad; dilation?: number }[] = [
  { filter: [3, 3], stride: 1, pad: 'same' },
  { filter: [3, 2], stride: 2, pad: 'valid' },
  { filter: [2, 3], stride: 2, pad: 'same' },
  { filter: [1, 1], stride: 3, pad: 'valid' },
  { filter: [3, 3], stride: 1, pad: 1 },
];

/** Images of 5..7 pixels a side and a filter. */
function images(
  filter: readonly number[],
  channels: number,
  more: (channels: number) => number[],
): fc.Arbitrary<Input[]> {
  const side = fc.integer({ min: 5, max: 7 });
  return fc
    .tuple(fc.integer({ min: 1, max: 2 }), side, side)
    .map(([batch, height, width]) => [
      { shape: [batch, height, width, channels] },
      { shape: [...filter, ...more(channels)] },
    ]);
}

const name = (op: string, g: { filter: number[]; stride: number; pad: Pad }) =>
  `${op} ${g.filter.join('x')} /${g.stride} ${g.pad}`;

/** The kernel that passes make of a convolution and its bias, on its own. */
const biased = (kernel: string, strides: [number, number], x: Tensor, filter: Tensor, bias: Tensor) => {
  const attrs = { strides, pad: 'same', dataFormat: 'NHWC', dilations: [1, 1] };
  return tf.engine().runKernel(kernel, { x, filter, bias }, attrs) as Tensor;
};

/** Windows side by side: of images that they fill, and of ones that they do not. */
const tilings: readonly [number, number][] = [
  [2, 2],
  [3, 2],
  [4, 3],
];

export const imageCases: KernelCase[] = [
  ...tilings.map(
    (window): KernelCase => ({
      name: `maxPool of equal values ${window.join('x')}`,
      inputs: images([1], 2, () => []).map(([x]) => [{ ...(x as Input), fill: { below: 3 }, dtype: 'float32' }]),
      fn: (x) => tf.maxPool(x as Tensor4D, window, window, 'valid'),
    }),
  ),
  {
    name: 'conv2d and bias',
    inputs: images([3, 2], 3, (channels) => [channels, 4]).map((inputs) => [...inputs, { shape: [4] }]),
    fn: (x, filter, bias) => biased('PlexusConv2D', [2, 1], x as Tensor, filter as Tensor, bias as Tensor),
    gradient: 'none',
    tolerance: 2e-5,
  },
  {
    name: 'depthwise conv2d and bias',
    inputs: images([3, 2], 3, (channels) => [channels, 2]).map((inputs) => [...inputs, { shape: [6] }]),
    fn: (x, filter, bias) => biased('PlexusDepthwiseConv2D', [2, 2], x as Tensor, filter as Tensor, bias as Tensor),
    gradient: 'none',
    tolerance: 2e-5,
  },
  {
    name: 'conv2d few channels, strides that leave rows out',
    inputs: exactly([2, 9, 8, 2], [2, 3, 2, 5]),
    fn: (x, f) => tf.conv2d(x as Tensor4D, f as Tensor4D, [3, 2], 'valid'),
    tolerance: 2e-5,
  },
  ...geometries.flatMap((g): KernelCase[] => [
    {
      name: name('conv2d', g),
      inputs: images(g.filter, 3, (channels) => [channels, 4]),
      fn: (x, filter) => tf.conv2d(x as Tensor4D, filter as Tensor4D, g.stride, g.pad),
      tolerance: 2e-5,
    },
    {
      name: name('depthwise', g),
      inputs: images(g.filter, 3, (channels) => [channels, 2]),
      fn: (x, filter) => tf.depthwiseConv2d(x as Tensor4D, filter as Tensor4D, g.stride, g.pad),
      tolerance: 2e-5,
    },
    {
      name: name('maxPool', g),
      inputs: images([1], 2, () => []).map(([x]) => [{ ...(x as Input), fill: 'distinct' }]),
      fn: (x) => tf.maxPool(x as Tensor4D, g.filter, g.stride, g.pad === 1 ? 'same' : g.pad),
    },
    {
      name: name('avgPool', g),
      inputs: images([1], 2, () => []).map(([x]) => [x as Input]),
      fn: (x) => tf.avgPool(x as Tensor4D, g.filter, g.stride, g.pad === 1 ? 'same' : g.pad),
      gradient: 'numeric',
    },
  ]),
  {
    name: 'conv2d many channels',
    inputs: exactly([2, 5, 6, 17], [3, 3, 17, 8]),
    fn: (x, f) => tf.conv2d(x as Tensor4D, f as Tensor4D, 1, 'same'),
    tolerance: 5e-5,
  },
  {
    name: 'conv2d dilated',
    inputs: exactly([1, 8, 7, 2], [3, 2, 2, 3]),
    fn: (x, f) => tf.conv2d(x as Tensor4D, f as Tensor4D, 1, 'same', 'NHWC', [2, 3]),
    gradient: 'numeric',
  },
  {
    name: 'conv2d empty',
    inputs: exactly([0, 5, 5, 2], [3, 3, 2, 3]),
    fn: (x, f) => tf.conv2d(x as Tensor4D, f as Tensor4D, 1, 'same'),
    gradient: 'none',
  },
  {
    name: 'depthwise dilated',
    inputs: exactly([1, 8, 7, 2], [3, 2, 2, 2]),
    fn: (x, f) => tf.depthwiseConv2d(x as Tensor4D, f as Tensor4D, 1, 'valid', 'NHWC', [2, 1]),
    gradient: 'numeric',
  },
  {
    name: 'separable',
    inputs: exactly([1, 6, 6, 3], [3, 3, 3, 2], [1, 1, 6, 4]),
    fn: (x, d, p) => tf.separableConv2d(x as Tensor4D, d as Tensor4D, p as Tensor4D, 1, 'same'),
    tolerance: 2e-5,
  },
  {
    name: 'conv1d',
    inputs: anyOf(
      [
        [2, 9, 3],
        [3, 3, 4],
      ],
      [
        [1, 6, 1],
        [2, 1, 2],
      ],
    ),
    fn: (x, f) => tf.conv1d(x as Tensor3D, f as Tensor3D, 2, 'same'),
    tolerance: 2e-5,
  },
  {
    name: 'convTranspose',
    inputs: exactly([2, 3, 4, 5], [3, 3, 2, 5]),
    fn: (x, f) => tf.conv2dTranspose(x as Tensor4D, f as Tensor4D, [2, 6, 8, 2], 2, 'same'),
    tolerance: 2e-5,
  },
  {
    name: 'unused rows',
    inputs: exactly([1, 8, 8, 2], [2, 2, 2, 3]),
    fn: (x, f) => tf.conv2d(x as Tensor4D, f as Tensor4D, 3, 'valid'),
  },
  {
    name: 'globalPool',
    inputs: exactly([2, 4, 5, 3]),
    fn: (x) => [tf.mean(x as Tensor, [1, 2]), tf.max(x as Tensor, [1, 2])],
  },
  {
    name: 'resizeBilinear',
    inputs: exactly([2, 3, 4, 2]),
    fn: (x) => [
      tf.image.resizeBilinear(x as Tensor4D, [6, 5]),
      tf.image.resizeBilinear(x as Tensor4D, [5, 7], true),
      tf.image.resizeBilinear(x as Tensor4D, [7, 3], false, true),
    ],
    gradient: 'numeric',
  },
  {
    name: 'resizeNearest',
    inputs: exactly([2, 3, 4, 2]),
    fn: (x) => [
      tf.image.resizeNearestNeighbor(x as Tensor4D, [6, 5]),
      tf.image.resizeNearestNeighbor(x as Tensor4D, [5, 7], true),
      tf.image.resizeNearestNeighbor(x as Tensor4D, [7, 3], false, true),
    ],
    gradient: 'numeric',
  },
  {
    name: 'batchNorm',
    inputs: exactly([2, 3, 3, 4], [4], { shape: [4], fill: 'positive' }, [4], [4]),
    fn: (x, mean, variance, offset, scale) =>
      tf.batchNorm(x as Tensor4D, mean as never, variance as never, offset as never, scale as never, 1e-3),
    gradient: 'numeric',
  },
  {
    name: 'conv relu conv',
    inputs: exactly([2, 6, 6, 3], [3, 3, 3, 4], [4], [3, 3, 4, 2]),
    fn: (x, f, b, g) =>
      tf.conv2d(
        tf.relu(tf.add(tf.conv2d(x as Tensor4D, f as Tensor4D, 1, 'same'), b as Tensor)) as Tensor4D,
        g as Tensor4D,
        2,
        'same',
      ),
    tolerance: 5e-5,
  },
];
