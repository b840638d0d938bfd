import type { Tensor, Tensor4D } from '@tensorflow/tfjs-core';
import { tf } from './tf.ts';

/** How tfjs maps output pixels to input pixels. */
export interface ResizeOptions {
  readonly size: readonly [number, number];
  readonly alignCorners: boolean;
  readonly halfPixelCenters: boolean;
}

function scaleOf(from: number, to: number, alignCorners: boolean): number {
  return alignCorners && to > 1 ? (from - 1) / (to - 1) : from / to;
}

/** Bilinear interpolation along one axis as a matrix `[to, from]`. */
function bilinearMatrix(from: number, to: number, options: ResizeOptions): Float32Array {
  const matrix = new Float32Array(to * from);
  const scale = scaleOf(from, to, options.alignCorners);
  for (let i = 0; i < to; i++) {
    const position = options.halfPixelCenters ? scale * (i + 0.5) - 0.5 : scale * i;
    const low = Math.max(0, Math.floor(position));
    const high = Math.min(from - 1, Math.max(0, Math.ceil(position)));
    const weight = low === high ? 0 : position - low;
    matrix[i * from + low] = (matrix[i * from + low] as number) + 1 - weight;
    matrix[i * from + high] = (matrix[i * from + high] as number) + weight;
  }
  return matrix;
}

/** Index of the nearest input pixel for each output pixel along one axis. */
function nearestIndices(from: number, to: number, options: ResizeOptions): Int32Array {
  const scale = scaleOf(from, to, options.alignCorners);
  return Int32Array.from({ length: to }, (_, i) => {
    const position = options.halfPixelCenters ? scale * (i + 0.5) : scale * i;
    return Math.max(0, Math.min(from - 1, options.alignCorners ? Math.round(position) : Math.floor(position)));
  });
}

/** Bilinear resizing of NHWC images as two matrix products: exact in every mode, and so is its gradient. */
export function resizeBilinear(images: Tensor, options: ResizeOptions): Tensor {
  const [batch, height, width, depth] = images.shape as [number, number, number, number];
  const [newHeight, newWidth] = options.size;
  const rows = tf.tensor2d(bilinearMatrix(height, newHeight, options), [newHeight, height]);
  const columns = tf.tensor2d(bilinearMatrix(width, newWidth, options), [newWidth, width]);
  return applyMatrices(images, rows, columns, [batch, newHeight, newWidth, depth], false);
}

/** The gradient of `resizeBilinear`. */
export function resizeBilinearGradient(images: Tensor, dy: Tensor, options: ResizeOptions): Tensor {
  const [, height, width] = images.shape as [number, number, number, number];
  const [newHeight, newWidth] = options.size;
  const rows = tf.tensor2d(bilinearMatrix(height, newHeight, options), [newHeight, height]);
  const columns = tf.tensor2d(bilinearMatrix(width, newWidth, options), [newWidth, width]);
  return applyMatrices(dy, rows, columns, images.shape, true);
}

function applyMatrices(x: Tensor, rows: Tensor, columns: Tensor, shape: readonly number[], transpose: boolean): Tensor {
  const [batch, height, width, depth] = x.shape as [number, number, number, number];
  const [, outHeight, outWidth] = shape as [number, number, number, number];
  const repeat = (matrix: Tensor, times: number) =>
    tf.broadcastTo(tf.reshape(matrix, [1, ...matrix.shape]), [times, ...matrix.shape]);
  const vertical = tf.matMul(repeat(rows, batch), tf.reshape(x, [batch, height, width * depth]), transpose, false);
  const lines = tf.reshape(vertical, [batch * outHeight, width, depth]);
  const horizontal = tf.matMul(repeat(columns, batch * outHeight), lines, transpose, false);
  return tf.reshape(horizontal, [batch, outHeight, outWidth, depth]);
}

/** Nearest-neighbour resizing of NHWC images as two gathers; their gradient sums over the copies. */
export function resizeNearest(images: Tensor, options: ResizeOptions): Tensor {
  const [, height, width] = (images as Tensor4D).shape;
  const rows = tf.tensor1d(nearestIndices(height, options.size[0], options), 'int32');
  const columns = tf.tensor1d(nearestIndices(width, options.size[1], options), 'int32');
  return tf.gather(tf.gather(images, rows, 1), columns, 2);
}

/** The gradient of `resizeNearest`. */
export function resizeNearestGradient(images: Tensor, dy: Tensor, options: ResizeOptions): Tensor {
  const [, height, width] = (images as Tensor4D).shape;
  const rows = tf.tensor1d(nearestIndices(height, options.size[0], options), 'int32');
  const columns = tf.tensor1d(nearestIndices(width, options.size[1], options), 'int32');
  return sumInto(sumInto(dy, columns, 2, width), rows, 1, height);
}

/** Sums the slices of `x` along `axis` into `size` slices by index: the gradient of a gather with constant indices. */
export function sumInto(x: Tensor, indices: Tensor, axis: number, size: number): Tensor {
  const perm = [axis, ...x.shape.flatMap((_, i) => (i === axis ? [] : [i]))];
  const undo = perm.map((_, i) => perm.indexOf(i));
  return tf.transpose(tf.unsortedSegmentSum(tf.transpose(x, perm), indices as never, size), undo);
}
