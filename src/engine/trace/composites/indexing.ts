import { traceComposite } from '../backend.ts';
import { type ResizeOptions, resizeBilinear, resizeNearest } from '../resize.ts';
import { tf } from '../tf.ts';
import { flatIndices, gatherSizes } from './geometry.ts';
import { input, node } from './helpers.ts';

// Indexing.
traceComposite('GatherV2', (inputs, attrs) => {
  const x = input(inputs, 'x');
  const indices = input(inputs, 'indices');
  const axis = tf.util.parseAxisParam((attrs.axis ?? 0) as number, x.shape)[0] as number;
  const batchDims = (attrs.batchDims ?? 0) as number;
  if (batchDims === 0) return node('GatherV2', { x, indices }, { axis });
  const { batch, outer, size, inner } = gatherSizes(x.shape, axis, batchDims);
  const rows = tf.reshape(tf.transpose(tf.reshape(x, [batch, outer, size, inner]), [0, 2, 1, 3]), [
    batch * size,
    outer * inner,
  ]);
  const picked = tf.gather(rows, flatIndices(indices, batch, size), 0);
  const each = indices.size / batch;
  const shape = [...x.shape.slice(0, axis), ...indices.shape.slice(batchDims), ...x.shape.slice(axis + 1)];
  return tf.reshape(tf.transpose(tf.reshape(picked, [batch, each, outer, inner]), [0, 2, 1, 3]), shape);
});

traceComposite('UnsortedSegmentSum', (inputs, attrs) => {
  const x = input(inputs, 'x');
  const segmentIds = input(inputs, 'segmentIds');
  return node('UnsortedSegmentSum', { x, segmentIds: tf.cast(segmentIds, 'int32') }, attrs);
});
for (const kernel of ['Bincount', 'DenseBincount'])
  traceComposite(kernel, (inputs, attrs) => {
    const x = input(inputs, 'x');
    const weights = inputs.weights;
    const size = attrs.size as number;
    const rows = x.shape.length === 2 ? (x.shape[0] as number) : 1;
    // Ids that are out of range must not fall into the next row's bins.
    const valid = tf.logicalAnd(tf.greaterEqual(x, tf.scalar(0, 'int32')), tf.less(x, tf.scalar(size, 'int32')));
    const each = x.size / rows;
    const offsets = tf.tensor2d(
      Int32Array.from({ length: rows }, (_, i) => i * size),
      [rows, 1],
      'int32',
    );
    const ids = tf.add(tf.reshape(x, [rows, each]), offsets);
    const safe = tf.where(tf.reshape(valid, [rows, each]), ids, tf.fill([rows, each], -1, 'int32'));
    const amounts = weights && weights.size > 0 ? tf.reshape(weights, [x.size]) : tf.ones([x.size]);
    const counts = tf.unsortedSegmentSum(tf.cast(amounts, 'float32'), tf.reshape(safe, [x.size]), rows * size);
    const counted = tf.reshape(counts, x.shape.length === 2 ? [rows, size] : [size]);
    const result = attrs.binaryOutput === true ? tf.cast(tf.greater(counted, 0), 'float32') : counted;
    return tf.cast(result, (weights?.dtype ?? 'float32') as 'float32');
  });

// Images.
traceComposite('ResizeBilinear', (inputs, attrs) =>
  resizeBilinear(input(inputs, 'images'), attrs as unknown as ResizeOptions),
);
traceComposite('ResizeNearestNeighbor', (inputs, attrs) =>
  resizeNearest(input(inputs, 'images'), attrs as unknown as ResizeOptions),
);
