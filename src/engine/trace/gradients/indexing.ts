import { flatIndices, gatherSizes } from '../composites/geometry.ts';
import { tf } from '../tf.ts';
import { axesOf, gradient } from './define.ts';

/** Gradients of gathers and scatters. */
export const indexing = [
  gradient('GatherV2', { inputs: ['x', 'indices'] }, (dy, [x, indices], attrs) => ({
    x: () => {
      const axis = axesOf(attrs, x.shape)[0] as number;
      const { batch, outer, size, inner } = gatherSizes(x.shape, axis, (attrs.batchDims ?? 0) as number);
      if (dy.size === 0) return tf.zerosLike(x);
      const each = indices.size / batch;
      const blocks = tf.transpose(tf.reshape(dy, [batch, outer, each, inner]), [0, 2, 1, 3]);
      const ids = flatIndices(indices, batch, size);
      const sums = tf.unsortedSegmentSum(tf.reshape(blocks, [batch * each, outer * inner]), ids as never, batch * size);
      return tf.reshape(tf.transpose(tf.reshape(sums, [batch, size, outer, inner]), [0, 2, 1, 3]), x.shape);
    },
  })),
  gradient('GatherNd', { inputs: ['params', 'indices'] }, (dy, [params, indices]) => ({
    params: () => tf.scatterND(indices as never, dy, params.shape as never),
  })),
  gradient('ScatterNd', { inputs: ['indices'] }, (dy, [indices]) => ({ updates: () => tf.gatherND(dy, indices) })),
  gradient('TensorScatterUpdate', { inputs: ['indices', 'updates'] }, (dy, [indices, updates]) => ({
    tensor: () => tf.tensorScatterUpdate(dy, indices as never, tf.zerosLike(updates)),
    updates: () => tf.gatherND(dy, indices),
  })),
  gradient('UnsortedSegmentSum', { inputs: ['segmentIds'] }, (dy, [ids], attrs) => ({
    x: () => {
      const count = tf.scalar(attrs.numSegments as number, 'int32');
      const valid = tf.logicalAnd(tf.greaterEqual(ids, tf.scalar(0, 'int32')), tf.less(ids, count));
      const rows = tf.gather(dy, tf.where(valid, ids, tf.zerosLike(ids)));
      return tf.mul(rows, tf.reshape(tf.cast(valid, 'float32'), [...ids.shape, ...dy.shape.slice(1).map(() => 1)]));
    },
  })),
];
