import type { backend_util, GradConfig, GradFunc, NamedAttrMap, Tensor } from '@tensorflow/tfjs-core';
import { sizeOf } from '../../tensor/index.ts';
import { flatIndices, gatherSizes, mirrorIndices, stridedSliceInfo } from './composites.ts';
import { einsumGradient } from './einsum.ts';
import { sameShape } from './recorder.ts';
import { type ResizeOptions, resizeBilinearGradient, resizeNearestGradient, sumInto } from './resize.ts';
import { tf } from './tf.ts';

// Gradients that replace tfjs's own while a trace is recorded: because tfjs has none (top-k, gather-nd, strided slices,
// einsum, dilated convolutions), because its own is wrong off the beaten track (broadcasting squared difference, minimum
// and matmul, cumulative sums along inner axes, mirrored padding, resizing with half-pixel centres), or because it makes
// a graph that is needlessly large (sums and means multiplied by a tensor of ones).

type Values = Readonly<Record<string, unknown>>;
/** As many tensors as a gradient asked to be saved. */
type Saved = readonly [Tensor, Tensor, Tensor, Tensor];
type Grads = Readonly<Record<string, () => Tensor>>;

function gradient(
  kernelName: string,
  save: { readonly inputs?: readonly string[]; readonly outputs?: readonly boolean[]; readonly all?: boolean },
  gradFunc: (dy: Tensor, saved: Saved, attrs: Values) => Grads,
): GradConfig {
  return {
    kernelName,
    ...(save.inputs ? { inputsToSave: [...save.inputs] } : {}),
    ...(save.outputs ? { outputsToSave: [...save.outputs] } : {}),
    ...(save.all ? { saveAllInputs: true } : {}),
    gradFunc: gradFunc as unknown as GradFunc,
  };
}

/** Sums `x` over the axes along which a tensor of `shape` was broadcast to it. */
export function unbroadcast(x: Tensor, shape: readonly number[]): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const axes = tf.broadcast_util.getReductionAxes([...shape], x.shape);
  const summed = axes.length > 0 ? tf.sum(x, axes) : x;
  return tf.reshape(summed, [...shape]);
}

/** Broadcasts, also to no elements at all (which tf.broadcastTo leaves undone). */
function spread(x: Tensor, shape: readonly number[]): Tensor {
  return sizeOf(shape) === 0 ? tf.zeros([...shape]) : tf.broadcastTo(x, [...shape]);
}

function axesOf(attrs: Values, shape: number[], name = 'axis'): number[] {
  return tf.util.parseAxisParam((attrs[name] ?? null) as number[], shape);
}

function keptShape(shape: readonly number[], axes: readonly number[]): number[] {
  return shape.map((dim, i) => (axes.includes(i) ? 1 : dim));
}

const reductions = [
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

const elementwise = [
  gradient('Relu', { outputs: [true] }, (dy, [y]) => ({
    x: () => tf.where(tf.greater(y, tf.scalar(0)), dy, tf.zerosLike(dy)),
  })),
  gradient('Sqrt', { outputs: [true] }, (dy, [y]) => ({ x: () => tf.div(tf.mul(dy, 0.5), y) })),
  gradient('Rsqrt', { outputs: [true] }, (dy, [y]) => ({
    x: () => tf.mul(tf.mul(dy, -0.5), tf.mul(y, tf.square(y))),
  })),
  gradient('SquaredDifference', { inputs: ['a', 'b'] }, (dy, [a, b]) => {
    const slope = () => tf.mul(dy, tf.mul(tf.sub(a, b), 2));
    return { a: () => unbroadcast(slope(), a.shape), b: () => unbroadcast(tf.neg(slope()), b.shape) };
  }),
  gradient('Maximum', { inputs: ['a', 'b'] }, (dy, [a, b]) => ({
    a: () => unbroadcast(tf.mul(dy, tf.cast(tf.greaterEqual(a, b), 'float32')), a.shape),
    b: () => unbroadcast(tf.mul(dy, tf.cast(tf.less(a, b), 'float32')), b.shape),
  })),
  gradient('Minimum', { inputs: ['a', 'b'] }, (dy, [a, b]) => ({
    a: () => unbroadcast(tf.mul(dy, tf.cast(tf.lessEqual(a, b), 'float32')), a.shape),
    b: () => unbroadcast(tf.mul(dy, tf.cast(tf.greater(a, b), 'float32')), b.shape),
  })),
  gradient('Select', { inputs: ['condition'] }, (dy, [given]) => {
    const shape = [given.shape[0] ?? 1, ...dy.shape.slice(1).map(() => 1)];
    const condition = sameShape(given.shape, dy.shape) ? given : tf.reshape(given, shape);
    return {
      t: () => tf.where(condition, dy, tf.zerosLike(dy)),
      e: () => tf.where(condition, tf.zerosLike(dy), dy),
    };
  }),
];

const layout = [
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

const indexing = [
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

const contractions = [
  gradient('BatchMatMul', { inputs: ['a', 'b'] }, (dy, [a, b], attrs) => {
    const { transposeA, transposeB } = attrs as { transposeA: boolean; transposeB: boolean };
    const by = (x: Tensor, y: Tensor, tx: boolean, ty: boolean, shape: number[]) =>
      unbroadcast(tf.matMul(x, y, tx, ty), shape);
    return {
      a: () => (transposeA ? by(b, dy, transposeB, true, a.shape) : by(dy, b, false, !transposeB, a.shape)),
      b: () => {
        const shared = sizeOf(b.shape.slice(0, -2)) === 1 && sizeOf(a.shape.slice(0, -2)) > 1 && !transposeA;
        // One matrix for the whole batch: its gradient is a single product over all rows.
        const [left, right] = shared ? [rowsOf(a), rowsOf(dy)] : [a, dy];
        const grad = transposeB ? tf.matMul(right, left, true, transposeA) : tf.matMul(left, right, !transposeA, false);
        return unbroadcast(grad, b.shape);
      },
    };
  }),
  gradient('Einsum', { all: true }, (dy, saved, attrs) =>
    Object.fromEntries(saved.map((_, i) => [i, () => einsumGradient(attrs.equation as string, saved, dy, i)])),
  ),
];

function rowsOf(x: Tensor): Tensor {
  const width = x.shape[x.rank - 1] as number;
  return tf.reshape(x, [sizeOf(x.shape.slice(0, -1)), width]);
}

function run(kernel: string, inputs: Readonly<Record<string, Tensor>>, attrs: Values): Tensor {
  return tf.engine().runKernel(kernel, inputs, attrs as unknown as NamedAttrMap) as Tensor;
}

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

const images = [
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

const replacements = [...reductions, ...elementwise, ...layout, ...indexing, ...contractions, ...images];

/** Runs `fn` with these gradients registered, and puts tfjs's own back. */
export function withTraceGradients<T>(fn: () => T): T {
  const previous = replacements.map(({ kernelName }) => tf.getGradient(kernelName));
  for (const config of replacements) tf.registerGradient(config);
  try {
    return fn();
  } finally {
    replacements.forEach(({ kernelName }, i) => {
      const config = previous[i];
      if (config) tf.registerGradient(config);
      else tf.unregisterGradient(kernelName);
    });
  }
}
