import type { Tensor } from '@tensorflow/tfjs-core';
import { traceComposite } from '../backend.ts';
import { tf } from '../tf.ts';
import { mirrorIndices, stridedSliceInfo } from './geometry.ts';
import { input, list, node } from './helpers.ts';

// Layout.
traceComposite('Pack', (inputs, attrs) => {
  const axis = tf.util.parseAxisParam(attrs.axis as number, [1, ...(list(inputs)[0] as Tensor).shape])[0] as number;
  return tf.concat(
    list(inputs).map((x) => tf.expandDims(x, axis)),
    axis,
  );
});
traceComposite('Unpack', (inputs, attrs) => {
  const x = input(inputs, 'value');
  const axis = tf.util.parseAxisParam(attrs.axis as number, x.shape)[0] as number;
  const shape = x.shape.filter((_, i) => i !== axis);
  return slices(x, new Array<number>(x.shape[axis] as number).fill(1), axis).map((piece) => tf.reshape(piece, shape));
});
traceComposite('SplitV', (inputs, attrs) => {
  const x = input(inputs, 'x');
  const axis = tf.util.parseAxisParam(attrs.axis as number, x.shape)[0] as number;
  return slices(x, tf.backend_util.prepareSplitSize(x, attrs.numOrSizeSplits as number[], axis), axis);
});
function slices(x: Tensor, sizes: readonly number[], axis: number): Tensor[] {
  let at = 0;
  return sizes.map((size) => {
    const begin = x.shape.map((_, i) => (i === axis ? at : 0));
    at += size;
    return tf.slice(
      x,
      begin,
      x.shape.map((dim, i) => (i === axis ? size : dim)),
    );
  });
}
traceComposite('BroadcastTo', (inputs, attrs) => tf.broadcastTo(input(inputs, 'x'), attrs.shape as number[]));
traceComposite('StridedSlice', (inputs, attrs) => {
  const x = input(inputs, 'x');
  const info = stridedSliceInfo(x.shape, attrs);
  const reversed = info.strides.flatMap((stride, i) => (stride < 0 ? [i] : []));
  const turned = reversed.length > 0 ? tf.reverse(x, reversed) : x;
  const begin = info.begin.map((at, i) => ((info.strides[i] as number) < 0 ? (x.shape[i] as number) - 1 - at : at));
  const strides = info.strides.map(Math.abs);
  const end = begin.map(
    (at, i) =>
      at +
      Math.max(0, (info.sparse[i] as number) - 1) * (strides[i] as number) +
      ((info.sparse[i] as number) > 0 ? 1 : 0),
  );
  const picked = strides.every((stride) => stride === 1)
    ? tf.slice(turned, begin, info.sparse)
    : node('StridedSlice', { x: turned }, { begin, end, strides });
  return tf.reshape(picked, info.final);
});

traceComposite('MirrorPad', (inputs, attrs) => {
  const { indices } = mirrorIndices(input(inputs, 'x').shape, attrs);
  return indices.reduce<Tensor>(
    (x, index, axis) => (index === null ? x : tf.gather(x, index, axis)),
    input(inputs, 'x'),
  );
});

traceComposite('SpaceToBatchND', (inputs, attrs) => {
  const block = attrs.blockShape as number[];
  const paddings = [[0, 0], ...(attrs.paddings as number[][])] as [number, number][];
  const x = input(inputs, 'x');
  for (let i = 1 + block.length; i < x.shape.length; i++) paddings.push([0, 0]);
  const padded = tf.pad(x, paddings);
  const size = tf.util.sizeFromShape(block);
  const apart = tf.backend_util.getReshaped(padded.shape, block, size, false);
  const perm = tf.backend_util.getPermuted(apart.length, block.length, false);
  const together = tf.backend_util.getReshapedPermuted(padded.shape, block, size, false);
  return tf.reshape(tf.transpose(tf.reshape(padded, apart), perm), together);
});
traceComposite('BatchToSpaceND', (inputs, attrs) => {
  const x = input(inputs, 'x');
  const block = attrs.blockShape as number[];
  const crops = attrs.crops as number[][];
  const size = tf.util.sizeFromShape(block);
  const apart = tf.backend_util.getReshaped(x.shape, block, size);
  const perm = tf.backend_util.getPermuted(apart.length, block.length);
  const together = tf.backend_util.getReshapedPermuted(x.shape, block, size);
  const begin = tf.backend_util.getSliceBeginCoords(crops, block.length);
  const kept = tf.backend_util.getSliceSize(together, crops, block.length);
  return tf.slice(tf.reshape(tf.transpose(tf.reshape(x, apart), perm), together), begin, kept);
});
traceComposite('DepthToSpace', (inputs, attrs) => {
  const x = input(inputs, 'x');
  const block = attrs.blockSize as number;
  const nhwc = attrs.dataFormat !== 'NCHW';
  const [n, a, b, c] = x.shape as [number, number, number, number];
  if (!nhwc) {
    const apart = tf.transpose(tf.reshape(x, [n, block, block, a / (block * block), b, c]), [0, 3, 4, 1, 5, 2]);
    return tf.reshape(apart, [n, a / (block * block), b * block, c * block]);
  }
  const apart = tf.transpose(tf.reshape(x, [n, a, b, block, block, c / (block * block)]), [0, 1, 3, 2, 4, 5]);
  return tf.reshape(apart, [n, a * block, b * block, c / (block * block)]);
});
traceComposite('Diag', (inputs) => {
  const x = input(inputs, 'x');
  const flat = tf.reshape(x, [x.size]);
  return tf.reshape(tf.mul(tf.eye(x.size), tf.reshape(flat, [x.size, 1])), [...x.shape, ...x.shape]);
});

// Running products by doubling: there is no such operator to lower to.
traceComposite('Cumprod', (inputs, attrs) => {
  const x = input(inputs, 'x');
  const axis = tf.util.parseAxisParam((attrs.axis ?? 0) as number, x.shape)[0] as number;
  const size = x.shape[axis] as number;
  const shifted = (tensor: Tensor, by: number) => {
    const pads = tensor.shape.map((_, i): [number, number] =>
      i !== axis ? [0, 0] : attrs.reverse ? [0, by] : [by, 0],
    );
    const begin = tensor.shape.map((_, i) => (i === axis && attrs.reverse ? by : 0));
    const kept = tensor.shape.map((dim, i) => (i === axis ? dim - by : dim));
    return tf.pad(tf.slice(tensor, begin, kept), pads, 1);
  };
  let product = attrs.exclusive === true && size > 0 ? shifted(x, 1) : x;
  for (let by = 1; by < size; by *= 2) product = tf.mul(product, shifted(product, by));
  return product;
});
