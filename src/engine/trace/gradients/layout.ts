import type { Tensor } from '@tensorflow/tfjs-core';
import { mirrorIndices, stridedSliceInfo } from '../composites/geometry.ts';
import { sumInto } from '../resize.ts';
import { tf } from '../tf.ts';
import { gradient } from './define.ts';

/** Gradients of kernels that move elements. */
export const layout = [
  gradient('Tile', { inputs: ['x'] }, (dy, [x], attrs) => ({
    x: () => {
      const reps = attrs.reps as number[];
      // Each axis of size d repeated r times is an axis r before an axis d.
      const apart = x.shape.flatMap((dim, i) =>
        (reps[i] as number) > 1 ? (dim > 1 ? [reps[i] as number, dim] : [reps[i] as number]) : [dim],
      );
      const axes: number[] = [];
      let at = 0;
      x.shape.forEach((dim, i) => {
        if ((reps[i] as number) > 1) {
          axes.push(at);
          at += dim > 1 ? 2 : 1;
        } else at++;
      });
      if (x.size === 0) return tf.zerosLike(x);
      return axes.length === 0 ? dy : tf.reshape(tf.sum(tf.reshape(dy, apart), axes), x.shape);
    },
  })),
  gradient('StridedSlice', { inputs: ['x'] }, (dy, [x], attrs) => ({
    x: () => {
      const info = stridedSliceInfo(x.shape, attrs);
      if (dy.size === 0) return tf.zerosLike(x);
      let grad = tf.reshape(dy, info.sparse);
      info.strides.forEach((stride, axis) => {
        const count = info.sparse[axis] as number;
        const step = Math.abs(stride);
        const size = x.shape[axis] as number;
        if (stride < 0) grad = tf.reverse(grad, axis);
        const first = stride < 0 ? (info.begin[axis] as number) + (count - 1) * stride : (info.begin[axis] as number);
        grad = placeEvery(grad, axis, step, first, size);
      });
      return grad;
    },
  })),
  // Of a kernel with a single output the cotangent comes alone, not in a list as tfjs's own gradients expect.
  gradient('Unpack', {}, (dy, _, attrs) => ({ value: () => tf.stack([dy].flat(), attrs.axis as number) })),
  gradient('SplitV', {}, (dy, _, attrs) => ({ x: () => tf.concat([dy].flat(), attrs.axis as number) })),
  gradient('MirrorPad', { inputs: ['x'] }, (dy, [x], attrs) => ({
    x: () =>
      mirrorIndices(x.shape, attrs).indices.reduce<Tensor>(
        (grad, index, axis) => (index === null ? grad : sumInto(grad, index, axis, x.shape[axis] as number)),
        dy,
      ),
  })),
  gradient('DepthToSpace', { inputs: ['x'] }, (dy, [x], attrs) => ({
    x: () => {
      const block = attrs.blockSize as number;
      const [n, a, b, c] = x.shape as [number, number, number, number];
      if (attrs.dataFormat === 'NCHW') {
        const apart = tf.reshape(dy, [n, a / (block * block), b, block, c, block]);
        return tf.reshape(tf.transpose(apart, [0, 3, 5, 1, 2, 4]), x.shape);
      }
      const apart = tf.reshape(dy, [n, a, block, b, block, c / (block * block)]);
      return tf.reshape(tf.transpose(apart, [0, 1, 3, 2, 4, 5]), x.shape);
    },
  })),
];

/** Puts the slices of `x` along `axis` at `first`, `first + step`, ... of an axis of `size` zeros. */
function placeEvery(x: Tensor, axis: number, step: number, first: number, size: number): Tensor {
  const count = x.shape[axis] as number;
  const pads = (before: number, after: number, at: number, rank: number) =>
    Array.from({ length: rank }, (_, i): [number, number] => (i === at ? [before, after] : [0, 0]));
  let spread = x;
  if (step > 1 && count > 1) {
    const apart = [...x.shape.slice(0, axis + 1), 1, ...x.shape.slice(axis + 1)];
    const padded = tf.pad(tf.reshape(x, apart), pads(0, step - 1, axis + 1, apart.length));
    const joined = tf.reshape(
      padded,
      x.shape.map((dim, i) => (i === axis ? dim * step : dim)),
    );
    spread = tf.slice(
      joined,
      x.shape.map(() => 0),
      x.shape.map((dim, i) => (i === axis ? (count - 1) * step + 1 : dim)),
    );
  }
  const reach = (count - 1) * step + 1;
  return first === 0 && reach === size ? spread : tf.pad(spread, pads(first, size - first - reach, axis, x.rank));
}
