import type { Tensor } from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { tf, uniform } from '../../../src/engine/index.ts';
import { anyOf, exactly, type Input, type KernelCase, one, shapes, two } from './harness.ts';

const rolled = (x: Tensor): number[] => [...Array(x.rank).keys()].map((axis) => (axis + 1) % x.rank);

export const layoutCases: KernelCase[] = [
  {
    name: 'reshape',
    inputs: one('normal'),
    fn: (x) =>
      [tf.reshape(x as Tensor, [-1, 1]), tf.expandDims(x as Tensor, 0)].slice((x as Tensor).size === 0 ? 1 : 0),
  },
  {
    name: 'reshapeChain',
    inputs: exactly([4, 6]),
    fn: (x) => tf.neg(tf.reshape(tf.reshape(x as Tensor, [2, 12]), [8, 3])),
  },
  {
    name: 'transpose',
    inputs: one('normal', 2),
    fn: (x) => [tf.transpose(x as Tensor), tf.transpose(x as Tensor, rolled(x as Tensor))],
  },
  {
    name: 'transposeTwice',
    inputs: one('normal', 3, 1),
    fn: (x) => tf.square(tf.transpose(tf.transpose(x as Tensor, rolled(x as Tensor)), rolled(x as Tensor))),
  },
  {
    name: 'transposeBack',
    inputs: exactly([2, 3, 4]),
    fn: (x) => tf.exp(tf.transpose(tf.transpose(x as Tensor, [2, 0, 1]), [1, 2, 0])),
  },
  { name: 'transposeInt', inputs: one('small-int', 2), fn: (x) => tf.transpose(x as Tensor) },
  { name: 'transposeBool', inputs: one('bool', 2), fn: (x) => tf.transpose(x as Tensor) },
  {
    name: 'slice',
    inputs: shapes(1, 4, 2).map((shape): Input[] => [{ shape }]),
    fn: (x) => [
      tf.slice(x as Tensor, 1),
      tf.slice(
        x as Tensor,
        (x as Tensor).shape.map(() => 1),
        (x as Tensor).shape.map((d) => d - 1),
      ),
      tf.slice(x as Tensor, [0], [0]),
    ],
  },
  {
    name: 'stridedSlice',
    inputs: exactly([5, 6, 4]),
    fn: (x) => [
      tf.stridedSlice(x as Tensor, [1, 0, 0], [5, 6, 4], [2, 3, 1]),
      tf.stridedSlice(x as Tensor, [4, 5, 3], [0, 1, 0], [-2, -3, -1]),
      tf.stridedSlice(x as Tensor, [1, 0], [2, 3], [1, 1], 0, 0, 0, 0, 1),
    ],
    gradient: 'numeric',
  },
  {
    name: 'concat',
    inputs: anyOf(
      [
        [2, 3],
        [2, 3],
      ],
      [
        [0, 3],
        [2, 3],
      ],
      [
        [2, 0],
        [2, 0],
      ],
      [
        [1, 2, 2],
        [3, 2, 2],
      ],
    ),
    fn: (a, b) => tf.concat([a as Tensor, b as Tensor, a as Tensor], 0),
  },
  {
    name: 'concatLast',
    inputs: exactly([2, 3, 2], [2, 3, 5]),
    fn: (a, b) => tf.concat([a as Tensor, b as Tensor], -1),
  },
  {
    name: 'stackSplit',
    inputs: exactly([3, 4], [3, 4]),
    fn: (a, b) => [tf.stack([a as Tensor, b as Tensor], 1), ...tf.split(a as Tensor, 2, 1), ...tf.unstack(b as Tensor)],
  },
  {
    name: 'splitInOne',
    inputs: exactly([1, 4]),
    fn: (x) => [...tf.unstack(x as Tensor), ...tf.split(x as Tensor, 1, 1)],
    gradient: 'numeric',
  },
  { name: 'splitSizes', inputs: exactly([2, 7]), fn: (x) => tf.split(x as Tensor, [2, 4, 1], 1) },
  {
    name: 'pad',
    inputs: one('normal', 1),
    fn: (x) =>
      tf.pad(
        x as Tensor,
        (x as Tensor).shape.map((_, i) => [i, 2]),
        0.5,
      ),
  },
  {
    name: 'padInt',
    inputs: one('small-int', 1, 1),
    fn: (x) =>
      tf.pad(
        x as Tensor,
        (x as Tensor).shape.map(() => [1, 0]),
        7,
      ),
  },
  {
    name: 'mirrorPad',
    inputs: anyOf([[4, 5]], [[3, 4, 3]]),
    fn: (x) => [
      tf.mirrorPad(
        x as Tensor,
        (x as Tensor).shape.map(() => [2, 1]),
        'reflect',
      ),
      tf.mirrorPad(
        x as Tensor,
        (x as Tensor).shape.map(() => [1, 2]),
        'symmetric',
      ),
    ],
    gradient: 'numeric',
  },
  {
    name: 'tile',
    inputs: one('normal', 1),
    fn: (x) =>
      tf.tile(
        x as Tensor,
        (x as Tensor).shape.map((_, i) => i + 2),
      ),
  },
  {
    name: 'broadcast',
    inputs: exactly([3, 1, 2]),
    fn: (x) => [tf.broadcastTo(x as Tensor, [3, 4, 2]), tf.broadcastTo(x as Tensor, [2, 3, 4, 2])],
  },
  { name: 'reverse', inputs: one('normal', 1), fn: (x) => [tf.reverse(x as Tensor), tf.reverse(x as Tensor, 0)] },
  {
    name: 'fillRange',
    inputs: exactly([400]),
    fn: (x) => [
      tf.add(x as Tensor, tf.fill([400], 2.5)),
      tf.add(x as Tensor, tf.range(0, 400, 1)),
      tf.range(5, 0, -1, 'int32'),
      tf.fill([3, 200], 4, 'int32'),
      tf.linspace(0, 1, 5),
    ],
  },
  {
    name: 'spaceToBatch',
    inputs: exactly([1, 4, 4, 2]),
    fn: (x) =>
      tf.spaceToBatchND(
        x as never,
        [2, 2],
        [
          [0, 0],
          [0, 0],
        ],
      ),
  },
  {
    name: 'depthToSpace',
    inputs: exactly([1, 2, 2, 8]),
    fn: (x) => tf.depthToSpace(x as never, 2),
    gradient: 'numeric',
  },
  {
    name: 'passThrough',
    inputs: two('normal'),
    fn: (a, b) => [a as Tensor, b as Tensor, a as Tensor, tf.add(a as Tensor, b as Tensor)],
  },
  {
    name: 'uniform',
    inputs: fc
      .tuple(shapes(0, 3), fc.nat(1))
      .map(([shape]): Input[] => [{ shape: [2], fill: { below: 1 << 30 } }, { shape }]),
    fn: (key, x) => [
      uniform(key as Tensor, (x as Tensor).shape, 0xdeadbeef),
      uniform(key as Tensor, [3, 5], 7),
      tf.neg(x as Tensor),
    ],
    tolerance: 0,
    gradient: 'none',
  },
];

export const indexCases: KernelCase[] = [
  {
    name: 'gather',
    inputs: exactly([5, 4], { shape: [2, 3], fill: { below: 4 } }),
    fn: (x, i) => [tf.gather(x as Tensor, i as Tensor), tf.gather(x as Tensor, i as Tensor, 1)],
    gradient: 'numeric',
  },
  {
    name: 'gatherScalar',
    inputs: exactly([5, 4], { shape: [], fill: { below: 4 } }),
    fn: (x, i) => tf.gather(x as Tensor, i as Tensor),
  },
  {
    name: 'gatherNone',
    inputs: exactly([5, 4], { shape: [0], fill: { below: 4 } }),
    fn: (x, i) => tf.gather(x as Tensor, i as Tensor),
  },
  {
    name: 'gatherBatch',
    inputs: exactly([2, 5, 3], { shape: [2, 4], fill: { below: 5 } }),
    fn: (x, i) => tf.gather(x as Tensor, i as Tensor, 1, 1),
    gradient: 'numeric',
  },
  {
    name: 'embedding',
    inputs: exactly([7, 6], { shape: [4, 5], fill: { below: 7 } }),
    fn: (table, ids) => tf.gather(table as Tensor, tf.reshape(ids as Tensor, [20])),
  },
  {
    name: 'gatherInt',
    inputs: exactly({ shape: [5, 4], fill: 'small-int' }, { shape: [3], fill: { below: 5 } }),
    fn: (x, i) => tf.gather(x as Tensor, i as Tensor),
  },
  {
    name: 'gatherNd',
    inputs: anyOf(
      [[4, 5, 2], { shape: [3, 2], fill: { below: 4 } }],
      [[4, 4], { shape: [2, 3, 1], fill: { below: 4 } }],
    ),
    fn: (x, i) => tf.gatherND(x as Tensor, i as Tensor),
    gradient: 'numeric',
  },
  {
    name: 'scatterNd',
    inputs: exactly({ shape: [6, 1], fill: { below: 4 } }, [6, 3]),
    fn: (i, x) => tf.scatterND(i as Tensor, x as Tensor, [4, 3]),
    gradient: 'numeric',
  },
  {
    name: 'scatterNdDeep',
    inputs: exactly({ shape: [3, 2, 2], fill: { below: 3 } }, [3, 2, 2]),
    fn: (i, x) => tf.scatterND(i as Tensor, x as Tensor, [3, 4, 2]),
    gradient: 'numeric',
  },
  {
    name: 'scatterNdInt',
    inputs: exactly({ shape: [5, 1], fill: { below: 3 } }, { shape: [5], fill: 'small-int' }),
    fn: (i, x) => tf.scatterND(i as Tensor, x as Tensor, [3]),
  },
  {
    name: 'scatterUpdate',
    inputs: exactly([4, 3], [2, 3]),
    fn: (t, x) => tf.tensorScatterUpdate(t as Tensor, tf.tensor2d([[2], [0]], [2, 1], 'int32'), x as Tensor),
    gradient: 'numeric',
  },
  {
    name: 'segmentSum',
    inputs: anyOf(
      [[6, 3], { shape: [6], fill: { below: 4 } }],
      [[5], { shape: [5], fill: { below: 3 } }],
      [[0, 3], { shape: [0], fill: { below: 4 } }],
    ),
    fn: (x, ids) => tf.unsortedSegmentSum(x as Tensor, ids as never, 4),
  },
  {
    name: 'segmentSumDropped',
    inputs: exactly([9, 2], { shape: [9], fill: 'small-int' }),
    fn: (x, ids) => tf.unsortedSegmentSum(x as Tensor, ids as never, 3),
    gradient: 'numeric',
  },
  {
    name: 'oneHot',
    inputs: anyOf(
      [{ shape: [4], fill: { below: 5 } }],
      [{ shape: [2, 3], fill: { below: 9 } }],
      [{ shape: [0], fill: { below: 5 } }],
    ),
    fn: (i) => [
      tf.oneHot(i as Tensor, 5),
      tf.oneHot(i as Tensor, 5, 2, -1),
      tf.oneHot(i as Tensor, 3, 1, 0, 'float32'),
    ],
  },
];
