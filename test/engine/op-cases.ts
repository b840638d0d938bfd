import type { Tensor, Tensor3D, Tensor4D } from '@tensorflow/tfjs-core';
import {
  gelu,
  layerNorm,
  rmsNorm,
  silu,
  softmaxCrossEntropy,
  type TensorFunction,
  tf,
} from '../../src/engine/index.ts';
import { integers, random } from './reference.ts';

/** A function of tensors, what it is called, inputs to try it on, and how to check its gradient. */
export type Case = [
  name: string,
  fn: TensorFunction,
  inputs: () => Tensor[],
  options?: { step?: number; tolerance?: number },
];

const pair = () => [random([2, 3, 4], 1), random([4], 2)];
const positive = () => [random([2, 5], 3, 0.3, 2)];
const plain = () => [random([3, 4], 4)];
const image = (channels = 2, size = 6) => random([2, size, size - 1, channels], 5);

/** Ops of all families that are traced, with gradients. */
export const cases: Case[] = [
  ['add, broadcast', (a, b) => tf.add(a, b), pair],
  ['sub, broadcast', (a, b) => tf.sub(b, a), pair],
  ['mul, broadcast', (a, b) => tf.mul(a, b), pair],
  ['div, broadcast', (a, b) => tf.div(a, b), () => [random([2, 3], 1), random([3], 2, 0.5, 2)]],
  ['maximum', (a, b) => tf.maximum(a, b), pair, { step: 1e-3, tolerance: 2e-2 }],
  ['minimum', (a, b) => tf.minimum(a, b), pair, { step: 1e-3, tolerance: 2e-2 }],
  ['squared difference, broadcast', (a, b) => tf.squaredDifference(a, b), pair],
  ['pow', (a, b) => tf.pow(a, b), () => [random([3], 1, 0.5, 2), random([2, 3], 2)]],
  ['prelu', (a, b) => tf.prelu(a, b), () => [random([2, 4], 1), random([4], 2)], { step: 1e-3, tolerance: 2e-2 }],
  ['addN', (a, b) => tf.addN([a, b, a]), () => [random([2, 3], 1), random([2, 3], 2)]],
  ...(
    [
      'exp',
      'sin',
      'cos',
      'tanh',
      'sigmoid',
      'softplus',
      'erf',
      'square',
      'neg',
      'sinh',
      'cosh',
      'expm1',
      'atan',
      'asinh',
      'elu',
      'selu',
    ] as const
  ).map((op): Case => [op, (x) => (tf[op] as (x: Tensor) => Tensor)(x), plain]),
  ...(['log', 'sqrt', 'rsqrt', 'reciprocal', 'log1p', 'relu', 'relu6', 'abs'] as const).map(
    (op): Case => [op, (x) => (tf[op] as (x: Tensor) => Tensor)(x), positive],
  ),
  [
    'tan, asin, acos, atanh',
    (x) => [tf.tan(x), tf.asin(x), tf.acos(x), tf.atanh(x)],
    () => [random([4], 1, -0.7, 0.7)],
  ],
  ['leakyRelu', (x) => tf.leakyRelu(x, 0.1), plain, { step: 1e-3, tolerance: 2e-2 }],
  ['clip', (x) => tf.clipByValue(x, -0.4, 0.5), plain, { step: 1e-3, tolerance: 2e-2 }],
  ['gelu', (x) => gelu(x), plain],
  ['gelu tanh', (x) => gelu(x, 'tanh'), plain],
  ['silu', (x) => silu(x), plain],
  ['matmul', (a, b) => tf.matMul(a, b), () => [random([3, 4], 1), random([4, 2], 2)]],
  ['matmul tn', (a, b) => tf.matMul(a, b, true, false), () => [random([4, 3], 1), random([4, 2], 2)]],
  ['matmul nt', (a, b) => tf.matMul(a, b, false, true), () => [random([3, 4], 1), random([2, 4], 2)]],
  ['matmul tt', (a, b) => tf.matMul(a, b, true, true), () => [random([4, 3], 1), random([2, 4], 2)]],
  ['matmul, batch broadcast', (a, b) => tf.matMul(a, b), () => [random([2, 3, 4], 1), random([1, 4, 2], 2)]],
  [
    'matmul, batch broadcast tt',
    (a, b) => tf.matMul(a, b, true, true),
    () => [random([2, 4, 3], 1), random([1, 2, 4], 2)],
  ],
  [
    'matmul, batch by matrix nt',
    (a, b) => tf.matMul(a, b, false, true),
    () => [random([2, 3, 4], 1), random([2, 4], 2)],
  ],
  ['dot', (a, b) => tf.dot(a, b), () => [random([4], 1), random([4], 2)]],
  [
    'fused matmul',
    (a, b, c) => tf.fused.matMul({ a: a, b: b, bias: c, activation: 'sigmoid' }),
    () => [random([3, 4], 1), random([4, 2], 2), random([2], 3)],
  ],
  ['sum', (x) => [tf.sum(x), tf.sum(x, 1), tf.sum(x, [0, 2], true)], () => [random([2, 3, 4], 1)]],
  ['mean', (x) => [tf.mean(x), tf.mean(x, -1), tf.mean(x, [0, 2], true)], () => [random([2, 3, 4], 1)]],
  [
    'max, min',
    (x) => [tf.max(x, 1), tf.min(x, [0, 2], true)],
    () => [random([2, 3, 4], 1)],
    { step: 1e-3, tolerance: 2e-2 },
  ],
  ['prod', (x) => tf.prod(x, 1), () => [random([2, 4], 1, 0.5, 1.5)]],
  [
    'prod of axes, negative, kept',
    (x) => [tf.prod(x, [0, -1], true), tf.prod(x, -2), tf.prod(x)],
    () => [random([2, 2, 3], 1, 0.5, 1.5)],
  ],
  ['logSumExp', (x) => tf.logSumExp(x, 1), () => [random([2, 4], 1)]],
  ['norm', (x) => tf.norm(x), plain],
  [
    'moments',
    (x) => {
      const { mean, variance } = tf.moments(x, [0]);
      return [mean, variance];
    },
    plain,
  ],
  ['softmax', (x) => tf.softmax(x), plain],
  ['logSoftmax', (x) => tf.logSoftmax(x), plain],
  ['cumsum, inner axis', (x) => tf.cumsum(x, 1, true, true), () => [random([2, 3, 4], 1)]],
  ['cumsum', (x) => tf.cumsum(x, 1), plain],
  ['reshape, transpose', (x) => tf.transpose(tf.reshape(x, [4, -1, 2]), [2, 0, 1]), () => [random([4, 6], 1)]],
  ['slice', (x) => tf.slice(x, [1, 0], [2, 3]), plain],
  ['strided slice', (x) => tf.stridedSlice(x, [0, 4, 0], [3, 0, 2], [2, -2, 1], 0, 2), () => [random([3, 5, 2], 1)]],
  [
    'concat, split',
    (a, b) => [tf.concat([a, b], 1), ...tf.split(a, [1, 2], 1)],
    () => [random([2, 3], 1), random([2, 2], 2)],
  ],
  [
    'stack, unstack',
    (a, b) => [tf.stack([a, b], 1), ...tf.unstack(a, 1)],
    () => [random([2, 3], 1), random([2, 3], 2)],
  ],
  [
    'pad',
    (x) =>
      tf.pad(
        x,
        [
          [1, 0],
          [0, 2],
        ],
        0.5,
      ),
    plain,
  ],
  [
    'mirror pad',
    (x) => [
      tf.mirrorPad(
        x,
        [
          [1, 2],
          [0, 3],
        ],
        'reflect',
      ),
      tf.mirrorPad(
        x,
        [
          [1, 3],
          [2, 0],
        ],
        'symmetric',
      ),
    ],
    plain,
  ],
  ['tile', (x) => tf.tile(x, [2, 3]), plain],
  ['tile of ones', (x) => tf.tile(x, [2, 3, 2]), () => [random([1, 2, 1], 1)]],
  ['broadcastTo', (x) => tf.broadcastTo(x, [2, 3, 4]), () => [random([3, 1], 1)]],
  ['reverse', (x) => tf.reverse(x, [1]), plain],
  ['expandDims, squeeze', (x) => tf.squeeze(tf.expandDims(x, -1)), plain],
  ['gather', (x, i) => tf.gather(x, i as never, 1), () => [random([2, 5, 3], 1), integers([2, 2], 5)]],
  ['gather rows', (x, i) => tf.gather(x, i as never), () => [random([5, 3], 1), integers([2, 4], 5)]],
  ['gather, batched', (x, i) => tf.gather(x, i as never, 1, 1), () => [random([3, 5, 2], 1), integers([3, 2], 5)]],
  [
    'gather, batched, inner axis',
    (x, i) => tf.gather(x, i as never, 2, 1),
    () => [random([2, 3, 4], 1), integers([2, 2], 4)],
  ],
  ['gatherND', (x, i) => tf.gatherND(x, i), () => [random([3, 4, 2], 1), integers([5, 2], 3)]],
  ['scatterND', (x, i) => tf.scatterND(i as never, x, [6, 2] as never), () => [random([4, 2], 1), integers([4, 1], 6)]],
  [
    'tensor scatter update',
    (x, u) => tf.tensorScatterUpdate(x, tf.tensor2d([[1], [3]], [2, 1], 'int32') as never, u),
    () => [random([5, 2], 1), random([2, 2], 2)],
  ],
  ['segment sum', (x, i) => tf.unsortedSegmentSum(x, i as never, 4), () => [random([6, 2], 1), integers([6], 4)]],
  [
    'top-k',
    (x) => {
      const { values, indices } = tf.topk(x, 2);
      return [values, indices];
    },
    () => [random([3, 6], 1)],
  ],
  ['where', (a, b) => tf.where(tf.greater(a, b), tf.mul(a, 2), b), () => [random([2, 3], 1), random([3], 2)]],
  ['one-hot', (x, i) => tf.mul(x, tf.oneHot(i as never, 4)), () => [random([3, 4], 1), integers([3], 4)]],
  ['einsum matmul', (a, b) => tf.einsum('bij,bjk->bik', a, b), () => [random([2, 3, 4], 1), random([2, 4, 2], 2)]],
  [
    'einsum attention',
    (a, b) => tf.einsum('bthd,bshd->bhts', a, b),
    () => [random([2, 3, 2, 2], 1), random([2, 4, 2, 2], 2)],
  ],
  [
    'einsum outer, sum',
    (a, b) => [tf.einsum('i,j->ij', a, b), tf.einsum('i->', a)],
    () => [random([3], 1), random([4], 2)],
  ],
  ['einsum elementwise', (a, b) => tf.einsum('ij,ij->ji', a, b), () => [random([2, 3], 1), random([2, 3], 2)]],
  [
    'conv2d same',
    (x, f) => tf.conv2d(x as Tensor4D, f as Tensor4D, 1, 'same'),
    () => [image(), random([3, 2, 2, 3], 2)],
    { tolerance: 2e-2 },
  ],
  [
    'conv2d valid, strides',
    (x, f) => tf.conv2d(x as Tensor4D, f as Tensor4D, [2, 1], 'valid'),
    () => [image(), random([3, 3, 2, 3], 2)],
    { tolerance: 2e-2 },
  ],
  [
    'conv2d dilated',
    (x, f) => tf.conv2d(x as Tensor4D, f as Tensor4D, 1, 'same', 'NHWC', [2, 1]),
    () => [image(), random([3, 2, 2, 2], 2)],
    { tolerance: 2e-2 },
  ],
  [
    'conv2d padding',
    (x, f) => tf.conv2d(x as Tensor4D, f as Tensor4D, 2, 1, 'NHWC', 1, 'floor'),
    () => [image(), random([3, 3, 2, 2], 2)],
    { tolerance: 2e-2 },
  ],
  [
    'conv1d',
    (x, f) => tf.conv1d(x as Tensor3D, f as Tensor3D, 1, 'same'),
    () => [random([2, 6, 2], 1), random([3, 2, 3], 2)],
    { tolerance: 2e-2 },
  ],
  [
    'conv transposed',
    (x, f) => tf.conv2dTranspose(x as Tensor4D, f as Tensor4D, [2, 8, 8, 2], 2, 'same'),
    () => [random([2, 4, 4, 3], 1), random([3, 3, 2, 3], 2)],
    { tolerance: 2e-2 },
  ],
  [
    'depthwise',
    (x, f) => tf.depthwiseConv2d(x as Tensor4D, f as Tensor4D, 1, 'same'),
    () => [image(), random([3, 3, 2, 2], 2)],
    { tolerance: 2e-2 },
  ],
  [
    'depthwise dilated',
    (x, f) => tf.depthwiseConv2d(x as Tensor4D, f as Tensor4D, 1, 'same', 'NHWC', 2),
    () => [image(), random([2, 2, 2, 1], 2)],
    { tolerance: 2e-2 },
  ],
  [
    'separable',
    (x, d, p) => tf.separableConv2d(x as Tensor4D, d as Tensor4D, p as Tensor4D, 1, 'same'),
    () => [image(), random([2, 2, 2, 1], 2), random([1, 1, 2, 3], 3)],
    { tolerance: 2e-2 },
  ],
  ['max pool', (x) => tf.maxPool(x as Tensor4D, [2, 3], 2, 'same'), () => [image()], { step: 1e-3, tolerance: 2e-2 }],
  ['average pool', (x) => tf.avgPool(x as Tensor4D, 3, 2, 'same'), () => [image()]],
  ['global pool', (x) => [tf.mean(x, [1, 2]), tf.max(x, [1, 2])], () => [image()], { step: 1e-3, tolerance: 2e-2 }],
  [
    'batch norm',
    (x, m, v, o, s) => tf.batchNorm(x, m as never, v as never, o as never, s as never, 1e-2),
    () => [image(3), random([3], 2), random([3], 3, 0.5, 1), random([3], 4), random([3], 5)],
  ],
  [
    'batch norm by batch',
    (x, g) => {
      const { mean, variance } = tf.moments(x, [0]);
      return tf.mul(tf.div(tf.sub(x, mean), tf.sqrt(tf.add(variance, 1e-3))), g);
    },
    () => [random([6, 3], 1), random([3], 2)],
  ],
  ['layerNorm', (x, g, b) => layerNorm(x, g, b, 1e-3), () => [random([2, 3, 5], 1), random([5], 2), random([5], 3)]],
  ['rmsNorm', (x, g) => rmsNorm(x, g, 1e-3), () => [random([2, 3, 5], 1), random([5], 2)]],
  ['cross-entropy', (x, l) => softmaxCrossEntropy(x, l), () => [random([4, 5], 1), integers([4], 5)]],
  [
    'tf.losses cross-entropy',
    (x, l) => tf.losses.softmaxCrossEntropy(tf.oneHot(l as never, 5), x),
    () => [random([4, 5], 1), integers([4], 5)],
  ],
  [
    'resize bilinear',
    (x) => [
      tf.image.resizeBilinear(x as Tensor4D, [9, 4]),
      tf.image.resizeBilinear(x as Tensor4D, [3, 8], true),
      tf.image.resizeBilinear(x as Tensor4D, [4, 9], false, true),
    ],
    () => [image()],
  ],
  [
    'resize nearest',
    (x) => [
      tf.image.resizeNearestNeighbor(x as Tensor4D, [9, 4]),
      tf.image.resizeNearestNeighbor(x as Tensor4D, [3, 8], true),
    ],
    () => [image()],
  ],
  [
    'space to batch',
    (x) =>
      tf.batchToSpaceND(
        tf.spaceToBatchND(
          x,
          [2, 2],
          [
            [0, 0],
            [0, 1],
          ],
        ),
        [2, 2],
        [
          [0, 0],
          [0, 1],
        ],
      ),
    () => [image()],
  ],
  ['depth to space', (x) => tf.depthToSpace(x as Tensor4D, 2), () => [random([1, 2, 3, 4], 1)]],
  ['lstm-like loop', lstm, () => [random([2, 4, 3], 1), random([3, 8], 2), random([2, 8], 3)], { tolerance: 2e-2 }],
  [
    'basic lstm cell',
    (x, w, b) => tf.basicLSTMCell(tf.scalar(1), w as never, b as never, x as never, tf.zeros([2, 2]), tf.zeros([2, 2])),
    () => [random([2, 3], 1), random([5, 8], 2), random([8], 3)],
  ],
];

function lstm(x: Tensor, w: Tensor, u: Tensor): Tensor {
  let h = tf.zeros([2, 2]) as Tensor;
  let c = tf.zeros([2, 2]) as Tensor;
  for (const step of tf.unstack(x, 1)) {
    const [i, f, g, o] = tf.split(tf.add(tf.matMul(step, w), tf.matMul(h, u)), 4, 1) as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ];
    c = tf.add(tf.mul(tf.sigmoid(f), c), tf.mul(tf.sigmoid(i), tf.tanh(g)));
    h = tf.mul(tf.sigmoid(o), tf.tanh(c));
  }
  return h;
}
