import type { Tensor } from '@tensorflow/tfjs-core';
import { sizeOf } from '../../../tensor/index.ts';
import { flatIndices } from '../composites/geometry.ts';
import { tf } from '../tf.ts';
import { axesOf, gradient, keptShape, spread } from './define.ts';

/** Gradients of reductions and of what runs along an axis. */
export const reductions = [
  gradient('Sum', { inputs: ['x'] }, (dy, [x], attrs) => ({
    x: () => spread(tf.reshape(dy, keptShape(x.shape, axesOf(attrs, x.shape))), x.shape),
  })),
  gradient('Mean', { inputs: ['x'] }, (dy, [x], attrs) => ({
    x: () => {
      const axes = axesOf(attrs, x.shape);
      const count = sizeOf(axes.map((axis) => x.shape[axis] as number));
      return spread(tf.reshape(tf.mul(dy, 1 / count), keptShape(x.shape, axes)), x.shape);
    },
  })),
  gradient('Prod', { inputs: ['x'] }, (dy, [x], attrs) => ({
    x: () => {
      // The product of all others along the reduced axes, made one axis at the end: no division, so zeros are no trouble.
      const axes = axesOf(attrs, x.shape);
      const others = x.shape.map((_, i) => i).filter((i) => !axes.includes(i));
      const perm = [...others, ...axes];
      const outer = others.map((i) => x.shape[i] as number);
      const flat = tf.reshape(tf.transpose(x, perm), [...outer, sizeOf(axes.map((i) => x.shape[i] as number))]);
      const rest = tf.mul(tf.cumprod(flat, outer.length, true, false), tf.cumprod(flat, outer.length, true, true));
      const grad = tf.reshape(tf.mul(tf.reshape(dy, [...outer, 1]), rest), [...perm.map((i) => x.shape[i] as number)]);
      return tf.transpose(
        grad,
        perm.map((_, i) => perm.indexOf(i)),
      );
    },
  })),
  gradient('Cumsum', {}, (dy, _saved, attrs) => ({
    x: () => tf.cumsum(dy, attrs.axis as number, attrs.exclusive as boolean, attrs.reverse !== true),
  })),
  gradient('TopK', { inputs: ['x'], outputs: [false, true] }, (dys, [x, indices]) => ({
    x: () => {
      const [dValues] = dys as unknown as [Tensor, Tensor];
      const width = x.shape[x.rank - 1] as number;
      const rows = x.size / width;
      const ids = flatIndices(indices, rows, width);
      return tf.reshape(tf.unsortedSegmentSum(tf.reshape(dValues, [dValues.size]), ids as never, x.size), x.shape);
    },
  })),
];
