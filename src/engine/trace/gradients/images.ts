import type { backend_util, Tensor } from '@tensorflow/tfjs-core';
import { type ResizeOptions, resizeBilinearGradient, resizeNearestGradient } from '../resize.ts';
import { tf } from '../tf.ts';
import { gradient, run, unbroadcast } from './define.ts';

/**
 * Average pooling leaves padding out of its averages, but tfjs's gradient divides by the whole window: what the
 * cotangents must be multiplied by to make up for it, `[1, height, width, 1]`.
 */
function borderScale(info: backend_util.Conv2DInfo): Tensor {
  const counts = (out: number, stride: number, window: number, before: number, size: number) =>
    Array.from({ length: out }, (_, i) => {
      const start = i * stride - before;
      return Math.min(size, start + window) - Math.max(0, start);
    });
  const { filterHeight, filterWidth, padInfo } = info;
  const rows = counts(info.outHeight, info.strideHeight, filterHeight, padInfo.top, info.inHeight);
  const columns = counts(info.outWidth, info.strideWidth, filterWidth, padInfo.left, info.inWidth);
  const area = filterHeight * filterWidth;
  const scale = Float32Array.from(rows.flatMap((row) => columns.map((column) => area / (row * column))));
  return scale.every((value) => value === 1) ? tf.scalar(1) : tf.tensor(scale, [1, rows.length, columns.length, 1]);
}

/** The convolutions' gradients pass dilations on, which tfjs refuses. */
function convolution(kernel: 'Conv2D' | 'DepthwiseConv2dNative') {
  return gradient(kernel, { inputs: ['x', 'filter'] }, (dy, [x, filter], attrs) => {
    const { strides, pad, dataFormat, dilations, dimRoundingMode } = attrs;
    const geometry = { strides, pad, dataFormat, dilations, dimRoundingMode };
    return {
      x: () => run(`${kernel}BackpropInput`, { dy, filter: filter }, { ...geometry, inputShape: x.shape }),
      filter: () => run(`${kernel}BackpropFilter`, { x: x, dy }, { ...geometry, filterShape: filter.shape }),
    };
  });
}

/** Gradients of convolutions, pooling, resizing and batch normalization. */
export const images = [
  convolution('Conv2D'),
  convolution('DepthwiseConv2dNative'),
  gradient('ResizeBilinear', { inputs: ['images'] }, (dy, [x], attrs) => ({
    images: () => resizeBilinearGradient(x, dy, attrs as unknown as ResizeOptions),
  })),
  gradient('ResizeNearestNeighbor', { inputs: ['images'] }, (dy, [x], attrs) => ({
    images: () => resizeNearestGradient(x, dy, attrs as unknown as ResizeOptions),
  })),
  gradient('AvgPool', { inputs: ['x'] }, (dy, [x], attrs) => ({
    x: () => {
      const { filterSize, strides, pad, dimRoundingMode } = attrs as Record<string, never>;
      const info = tf.backend_util.computePool2DInfo(x.shape as never, filterSize, strides, 1, pad, dimRoundingMode);
      return run('AvgPoolGrad', { dy: tf.mul(dy, borderScale(info)), input: x }, attrs);
    },
  })),
  gradient(
    'FusedBatchNorm',
    { inputs: ['x', 'mean', 'variance', 'scale'] },
    (dy, [x, mean, variance, scale], attrs) => {
      const inverse = tf.rsqrt(tf.add(variance, attrs.varianceEpsilon as number));
      const gained = () => (scale ? tf.mul(dy, scale) : dy);
      const centred = () => tf.sub(x, mean);
      const halfCube = () => tf.mul(tf.mul(inverse, tf.square(inverse)), -0.5);
      return {
        x: () => tf.mul(gained(), inverse),
        mean: () => unbroadcast(tf.neg(tf.mul(gained(), inverse)), mean.shape),
        variance: () => unbroadcast(tf.mul(tf.mul(gained(), centred()), halfCube()), variance.shape),
        scale: () => unbroadcast(tf.mul(dy, tf.mul(centred(), inverse)), scale.shape),
        offset: () => unbroadcast(dy, mean.shape),
      };
    },
  ),
];
