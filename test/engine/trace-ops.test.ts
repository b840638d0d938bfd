import type { Tensor } from '@tensorflow/tfjs-core';
import { describe, expect, test } from 'vitest';
import { type TensorFunction, tf } from '../../src/engine/index.ts';
import { cases } from './op-cases.ts';
import { check, checkForward, integers, random } from './reference.ts';

describe('traced ops give what they give eagerly, forward and gradient', () => {
  test.each(cases)('%s', (_name, fn, inputs, options) => {
    check(fn, inputs(), options);
  });
});

describe('traced ops without gradients give what they give eagerly', () => {
  const a = random([3, 4], 1);
  const i = integers([3, 4], 5);
  test.each<[string, TensorFunction, Tensor[]]>([
    [
      'comparisons',
      (x, y) => [
        tf.greater(x, y),
        tf.less(x, y),
        tf.equal(x, x),
        tf.notEqual(x, y),
        tf.lessEqual(x, y),
        tf.greaterEqual(x, y),
      ],
      [a, random([4], 2)],
    ],
    [
      'logic',
      (x) => [
        tf.logicalAnd(tf.greater(x, 0), tf.less(x, 0.5)),
        tf.logicalNot(tf.greater(x, 0)),
        tf.logicalOr(tf.greater(x, 0.5), tf.less(x, -0.5)),
      ],
      [a],
    ],
    [
      'casts',
      (x) => [
        tf.cast(tf.mul(x, 3), 'int32'),
        tf.cast(x, 'bool'),
        tf.cast(tf.greater(x, 0), 'float32'),
        tf.cast(tf.greater(x, 0), 'int32'),
      ],
      [a],
    ],
    ['arg', (x) => [tf.argMax(x, 0), tf.argMin(x, -1)], [a]],
    ['all, any', (x) => [tf.all(tf.greater(x, -2), 1), tf.any(tf.greater(x, 0.5), 0)], [a]],
    [
      'integers',
      (x) => [
        tf.floorDiv(x, tf.scalar(2, 'int32')),
        tf.mod(x, tf.scalar(3, 'int32')),
        tf.add(x, x),
        tf.sum(x, 0),
        tf.cumsum(x, 0),
        tf.maximum(x, tf.scalar(2, 'int32')),
      ],
      [i],
    ],
    [
      'constants',
      () => [
        tf.range(0, 5, 1, 'int32'),
        tf.range(1, 0, -0.25),
        tf.fill([2, 2], 3),
        tf.zeros([3]),
        tf.ones([2], 'int32'),
        tf.linspace(0, 1, 5),
        tf.eye(3),
        tf.tensor([1, 2, 3]),
      ],
      [],
    ],
    ['rounding', (x) => [tf.round(tf.mul(x, 3)), tf.floor(x), tf.ceil(x), tf.sign(x), tf.step(x)], [a]],
    [
      'tests',
      (x) => [tf.isNaN(x), tf.isInf(x), tf.isFinite(x)],
      [tf.tensor([1, Number.NaN, Number.POSITIVE_INFINITY])],
    ],
    ['bincount', (x) => tf.bincount(x as never, tf.tensor1d([]) as never, 5), [integers([7], 5)]],
    ['band part', (x) => tf.linalg.bandPart(x, -1, 0), [random([4, 4])]],
    ['cumprod', (x) => [tf.cumprod(x, 1), tf.cumprod(x, 0, true, true)], [a]],
    [
      'zero-size',
      (x) => [tf.sum(x, 0), tf.concat([x, tf.ones([2, 3])]), tf.matMul(x, tf.ones([3, 2]))],
      [tf.zeros([0, 3])],
    ],
    ['scalars', (x) => [tf.mul(x, 2), tf.reshape(x, [1, 1]), tf.sum(x)], [tf.scalar(3)]],
  ])('%s', (_name, fn, inputs) => {
    checkForward(fn, inputs);
  });
});

test('a captured eager tensor becomes a constant', () => {
  const table = random([3, 4], 9);
  checkForward((x) => tf.matMul(x, table), [random([2, 3])]);
  expect(table.isDisposed).toBe(false);
});
