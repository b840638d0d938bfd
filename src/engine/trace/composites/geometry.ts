import type { Tensor } from '@tensorflow/tfjs-core';
import { sizeOf } from '../../../tensor/index.ts';
import { tf } from '../tf.ts';
import type { Values } from './helpers.ts';

/** A strided slice without masks: begin and strides of full rank, the shape before and after axes were dropped or added. */
export function stridedSliceInfo(shape: readonly number[], attrs: Values) {
  const a = attrs as Record<string, number[]> & Record<string, number>;
  const info = tf.slice_util.sliceInfo(
    [...shape],
    a.begin as number[],
    a.end as number[],
    a.strides as number[],
    a.beginMask as number,
    a.endMask as number,
    a.ellipsisMask as number,
    a.newAxisMask as number,
    a.shrinkAxisMask as number,
  );
  const sparse = tf.slice_util.computeOutShape(info.begin, info.end, info.strides).map((size) => Math.max(0, size));
  return { begin: info.begin, strides: info.strides, sparse, final: info.finalShape };
}

/** For each padded axis, which input slice each output slice copies. */
export function mirrorIndices(shape: readonly number[], attrs: Values) {
  const paddings = attrs.paddings as [number, number][];
  const offset = attrs.mode === 'reflect' ? 0 : 1;
  const indices = shape.map((dim, axis) => {
    const [before, after] = paddings[axis] as [number, number];
    if (before === 0 && after === 0) return null;
    const source = Int32Array.from({ length: before + dim + after }, (_, i) => {
      const at = i - before;
      if (at < 0) return -at - offset;
      return at >= dim ? 2 * (dim - 1) - at + offset : at;
    });
    return tf.tensor1d(source, 'int32');
  });
  return { indices };
}

/** Sizes of a gather: batches, what lies before the axis, the axis, what lies behind it. */
export function gatherSizes(shape: readonly number[], axis: number, batchDims: number) {
  return {
    batch: sizeOf(shape.slice(0, batchDims)),
    outer: sizeOf(shape.slice(batchDims, axis)),
    size: shape[axis] as number,
    inner: sizeOf(shape.slice(axis + 1)),
  };
}

/** Indices into `batch` tables of `size` rows laid one behind the other. */
export function flatIndices(indices: Tensor, batch: number, size: number): Tensor {
  const each = batch === 0 ? 0 : indices.size / batch;
  if (batch === 1) return tf.reshape(indices, [each]);
  const offsets = tf.tensor2d(
    Int32Array.from({ length: batch }, (_, i) => i * size),
    [batch, 1],
    'int32',
  );
  return tf.reshape(tf.add(tf.reshape(indices, [batch, each]), offsets), [batch * each]);
}
