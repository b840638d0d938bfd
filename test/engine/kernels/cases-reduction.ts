import type { Tensor } from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { tf } from '../../../src/engine/index.ts';
import { anyOf, exactly, type Input, type KernelCase, one, shapes } from './harness.ts';

const reductions: Record<string, (x: Tensor, axis?: number | number[], keepDims?: boolean) => Tensor> = {
  sum: tf.sum,
  mean: tf.mean,
  prod: tf.prod,
  max: tf.max,
  min: tf.min,
};

const forms = (x: Tensor, reduce: (axis?: number | number[], keepDims?: boolean) => Tensor): Tensor[] => [
  reduce(),
  ...(x.rank > 0
    ? [reduce(0), reduce(-1, true), reduce([x.rank - 1]), reduce([0, x.rank - 1].slice(0, x.rank), true)]
    : []),
];

export const reductionCases: KernelCase[] = [
  ...Object.entries(reductions).map(
    ([name, fn]): KernelCase => ({
      name,
      inputs: one(name === 'max' || name === 'min' ? 'distinct' : 'unit', 0, name === 'max' || name === 'min' ? 1 : 0),
      fn: (x) => forms(x as Tensor, (axis, keep) => fn(x as Tensor, axis, keep)),
      gradient: name === 'prod' ? 'numeric' : 'tfjs',
    }),
  ),
  {
    name: 'squaredSum',
    inputs: one('unit'),
    fn: (x) => tf.engine().runKernel('PlexusSquaredSum', { x: x as Tensor }) as Tensor,
    gradient: 'none',
  },
  {
    name: 'sumInt',
    inputs: one('small-int'),
    fn: (x) => forms(x as Tensor, (axis, keep) => tf.sum(x as Tensor, axis, keep)),
  },
  { name: 'maxInt', inputs: one('small-int', 1, 1), fn: (x) => [tf.max(x as Tensor, 0), tf.min(x as Tensor, -1)] },
  { name: 'sumBool', inputs: one('bool'), fn: (x) => tf.sum(x as Tensor) },
  {
    name: 'all',
    inputs: one('bool', 1, 1),
    fn: (x) => forms(x as Tensor, (axis, keep) => tf.all(x as Tensor, axis as number, keep)),
  },
  {
    name: 'any',
    inputs: one('bool', 1, 1),
    fn: (x) => forms(x as Tensor, (axis, keep) => tf.any(x as Tensor, axis as number, keep)),
  },
  {
    name: 'argMax',
    inputs: one('distinct', 1, 1),
    fn: (x) => [tf.argMax(x as Tensor, 0), tf.argMin(x as Tensor, -1)],
    gradient: 'none',
  },
  {
    name: 'argMaxTies',
    inputs: one('small-int', 1, 1),
    fn: (x) => [tf.argMax(x as Tensor, 0), tf.argMin(x as Tensor, -1)],
  },
  { name: 'softmax', inputs: one('normal', 1, 1), fn: (x) => tf.softmax(x as Tensor) },
  { name: 'logSoftmax', inputs: one('normal', 1, 1), fn: (x) => tf.logSoftmax(x as Tensor) },
  {
    // tf.logSoftmax is composed; passes make the kernel of it.
    name: 'logSoftmaxKernel',
    inputs: one('normal', 1, 1),
    fn: (x) => {
      const logits = x as Tensor;
      if (tf.getBackend() === 'cpu') return tf.logSoftmax(logits);
      return tf.engine().runKernel('LogSoftmax', { logits }, { axis: logits.rank - 1 }) as Tensor;
    },
    gradient: 'none',
  },
  { name: 'logSumExp', inputs: one('normal', 1, 1), fn: (x) => tf.logSumExp(x as Tensor, -1), tolerance: 3e-5 },
  {
    name: 'cumsum',
    inputs: one('normal', 1, 1),
    fn: (x) => [
      tf.cumsum(x as Tensor, 0),
      tf.cumsum(x as Tensor, (x as Tensor).rank - 1, true),
      tf.cumsum(x as Tensor, 0, false, true),
      tf.cumsum(x as Tensor, 0, true, true),
    ],
    // tfjs's own gradient fails where the axis is not the last.
    gradient: 'numeric',
  },
  { name: 'cumsumInt', inputs: one('small-int', 1, 1), fn: (x) => tf.cumsum(x as Tensor, 0) },
  {
    name: 'topk',
    inputs: shapes(1, 3, 2).map((shape): Input[] => [{ shape, fill: 'distinct' }]),
    fn: (x) => {
      const { values, indices } = tf.topk(x as Tensor, 2);
      return [values, indices];
    },
    gradient: 'numeric',
  },
  {
    name: 'topkTies',
    inputs: exactly({ shape: [4, 6], fill: { below: 3 } }),
    fn: (x) => {
      const { values, indices } = tf.topk(tf.cast(x as Tensor, 'float32'), 4);
      return [values, indices];
    },
  },
  {
    name: 'emptyAxis',
    inputs: fc.constantFrom<Input[]>([{ shape: [0, 3] }], [{ shape: [2, 0, 3] }]),
    fn: (x) => [tf.sum(x as Tensor, 0), tf.prod(x as Tensor, 0), tf.sum(x as Tensor)],
  },
  {
    name: 'moments',
    inputs: anyOf([[4, 3]], [[2, 5, 3]]),
    fn: (x) => Object.values(tf.moments(x as Tensor, 0)) as Tensor[],
  },
];
