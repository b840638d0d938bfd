import type { Tensor, TensorInfo } from '@tensorflow/tfjs-core';
import { sizeOf } from '../../tensor/index.ts';
import { alias, record, traceComposite } from './backend.ts';
import { type KernelDefinition, kernelDefinition } from './definition.ts';
import { einsum } from './einsum.ts';
import { sameShape } from './recorder.ts';
import { type ResizeOptions, resizeBilinear, resizeNearest } from './resize.ts';
import { tf } from './tf.ts';

type Inputs = Readonly<Record<string, Tensor>>;
type Values = Readonly<Record<string, unknown>>;

const node = (kernel: string, inputs: Readonly<Record<string, TensorInfo>>, attrs: Values = {}): Tensor =>
  tf
    .engine()
    .makeTensorFromTensorInfo(record(kernelDefinition(kernel) as KernelDefinition, inputs, attrs)[0] as TensorInfo);
const aliased = (x: Tensor): Tensor => tf.engine().makeTensorFromTensorInfo(alias(x));
const list = (inputs: Inputs): Tensor[] => Object.values(inputs);
const input = (inputs: Inputs, name: string): Tensor => inputs[name] as Tensor;

// What only renames a buffer.
// tfjs saves a missing optional input (batch norm's scale) for the gradient by cloning undefined: it counts as 1.
traceComposite('Identity', (inputs) => (inputs.x ? aliased(inputs.x) : tf.scalar(1)));
traceComposite('Reshape', (inputs, attrs) => {
  const x = input(inputs, 'x');
  const shape = tf.util.inferFromImplicitShape(attrs.shape as number[], sizeOf(x.shape));
  return sameShape(shape, x.shape) ? aliased(x) : node('Reshape', { x }, { shape });
});
traceComposite('ExpandDims', (inputs, attrs) => {
  const x = input(inputs, 'input');
  const shape = [...x.shape];
  const dim = attrs.dim as number;
  shape.splice(dim < 0 ? x.shape.length + dim + 1 : dim, 0, 1);
  return node('Reshape', { x }, { shape });
});
traceComposite('Cast', (inputs, attrs) => {
  const x = input(inputs, 'x');
  return attrs.dtype === x.dtype ? aliased(x) : node('Cast', { x }, { dtype: attrs.dtype });
});

// Constants.
traceComposite('ZerosLike', (inputs) => tf.fill(input(inputs, 'x').shape, 0, input(inputs, 'x').dtype as 'float32'));
traceComposite('OnesLike', (inputs) => tf.fill(input(inputs, 'x').shape, 1, input(inputs, 'x').dtype as 'float32'));
traceComposite('LinSpace', (_inputs, attrs) => {
  const { start, stop, num } = attrs as { start: number; stop: number; num: number };
  const step = num > 1 ? (stop - start) / (num - 1) : 0;
  return tf.tensor1d(Float32Array.from({ length: num }, (_, i) => start + i * step));
});

// Element-wise.
traceComposite('AddN', (inputs) => list(inputs).reduce((sum, term) => tf.add(sum, term)));
traceComposite('SquaredDifference', (inputs) => tf.square(tf.sub(input(inputs, 'a'), input(inputs, 'b'))));
traceComposite('Relu6', (inputs) => tf.clipByValue(input(inputs, 'x'), 0, 6));
traceComposite('Select', (inputs) => {
  const t = input(inputs, 't');
  const condition = input(inputs, 'condition');
  if (sameShape(condition.shape, t.shape)) return node('Select', inputs);
  const column = tf.reshape(condition, [condition.shape[0] as number, ...t.shape.slice(1).map(() => 1)]);
  return node('Select', { ...inputs, condition: tf.broadcastTo(column, t.shape) });
});

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

traceComposite('MirrorPad', (inputs, attrs) => {
  const { indices } = mirrorIndices(input(inputs, 'x').shape, attrs);
  return indices.reduce<Tensor>(
    (x, index, axis) => (index === null ? x : tf.gather(x, index, axis)),
    input(inputs, 'x'),
  );
});

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

// Contractions.
traceComposite('Einsum', (inputs, attrs) => einsum(attrs.equation as string, list(inputs)));
traceComposite('_FusedMatMul', (inputs, attrs) =>
  activated(
    tf.matMul(input(inputs, 'a'), input(inputs, 'b'), attrs.transposeA as boolean, attrs.transposeB as boolean),
    inputs,
    attrs,
  ),
);
traceComposite('FusedConv2D', (inputs, attrs) =>
  activated(
    node('Conv2D', { x: input(inputs, 'x'), filter: input(inputs, 'filter') }, convAttrs(attrs)),
    inputs,
    attrs,
  ),
);
traceComposite('FusedDepthwiseConv2D', (inputs, attrs) =>
  activated(
    node('DepthwiseConv2dNative', { x: input(inputs, 'x'), filter: input(inputs, 'filter') }, convAttrs(attrs)),
    inputs,
    attrs,
  ),
);
function convAttrs({ strides, pad, dataFormat, dilations, dimRoundingMode }: Values): Values {
  return { strides, pad, dataFormat, dilations, dimRoundingMode };
}
function activated(product: Tensor, inputs: Inputs, attrs: Values): Tensor {
  const x = inputs.bias ? tf.add(product, inputs.bias) : product;
  switch (attrs.activation ?? 'linear') {
    case 'linear':
      return x;
    case 'relu':
      return tf.relu(x);
    case 'elu':
      return tf.elu(x);
    case 'relu6':
      return tf.relu6(x);
    case 'prelu':
      return tf.prelu(x, input(inputs, 'preluActivationWeights'));
    case 'leakyrelu':
      return tf.leakyRelu(x, (attrs.leakyreluAlpha ?? 0.2) as number);
    case 'sigmoid':
      return tf.sigmoid(x);
    default:
      throw new Error(`unknown fused activation ${String(attrs.activation)}`);
  }
}
traceComposite('FusedBatchNorm', (inputs, attrs) => {
  const { x, mean, variance, scale, offset } = inputs as {
    x: Tensor;
    mean: Tensor;
    variance: Tensor;
    scale?: Tensor;
    offset?: Tensor;
  };
  const inverse = tf.rsqrt(tf.add(variance, attrs.varianceEpsilon as number));
  const gain = scale ? tf.mul(inverse, scale) : inverse;
  const centred = tf.mul(tf.sub(x, mean), gain);
  return offset ? tf.add(centred, offset) : centred;
});

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

/** Kernels composed of others, so that no graph contains them (those that may also stand in graphs are not listed). */
export const composedKernels = [
  'Identity',
  'ExpandDims',
  'ZerosLike',
  'OnesLike',
  'LinSpace',
  'AddN',
  'SquaredDifference',
  'Relu6',
  'Pack',
  'Unpack',
  'SplitV',
  'BroadcastTo',
  'MirrorPad',
  'SpaceToBatchND',
  'BatchToSpaceND',
  'DepthToSpace',
  'Diag',
  'Cumprod',
  'Einsum',
  '_FusedMatMul',
  'FusedConv2D',
  'FusedDepthwiseConv2D',
  'FusedBatchNorm',
  'Bincount',
  'DenseBincount',
  'ResizeBilinear',
  'ResizeNearestNeighbor',
  'Reshape',
  'Cast',
  'Select',
  'StridedSlice',
  'GatherV2',
  'UnsortedSegmentSum',
];
