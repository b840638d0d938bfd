import { sizeOf } from '../../../tensor/index.ts';
import { type Ref, typedArray } from '../model.ts';
import type { LoweringContext, LoweringTable } from './context.ts';

/**
 * Adds `updates` (`[n, ...rest]`) to zeros of `[rows, ...rest]` at row `index` (int64 `[n]`, in range), in the order of
 * n, so that the sum has the same bits every time. ScatterND adds whole rows and is the fastest on a CPU, but it splits
 * the updates over threads, which race; ScatterElements goes through them one by one. Accelerators add atomically, in
 * any order: there, a product with a one-hot matrix.
 */
export function addRows(c: LoweringContext, updates: Ref, index: Ref, rows: number): Ref {
  const n = updates.shape[0] as number;
  const rest = updates.shape.slice(1);
  const width = sizeOf(rest);
  const spec = { dtype: updates.dtype, shape: [rows, width] };
  const flat = c.b.reshape(updates, [n, width]);
  let sum: Ref;
  if (!c.onCpu && updates.dtype === 'float32') {
    const numbers = c.b.constant(
      'int64',
      [rows, 1],
      BigInt64Array.from({ length: rows }, (_, i) => BigInt(i)),
    );
    sum = c.matmul(c.b.cast(c.compare('Equal', numbers, c.b.reshape(index, [1, n])), 'float32'), flat);
  } else if (c.target.threads === 1) {
    sum = c.b.op('ScatterND', [c.b.full(spec, 0), c.b.reshape(index, [n, 1]), flat], { reduction: 'add' }, spec);
  } else {
    const each = c.b.op(
      'Expand',
      [c.b.reshape(index, [n, 1]), c.b.ints([n, width])],
      {},
      { dtype: 'int64', shape: [n, width] },
    );
    sum = c.b.op('ScatterElements', [c.b.full(spec, 0), each, flat], { axis: 0, reduction: 'add' }, spec);
  }
  return c.b.reshape(sum, [rows, ...rest]);
}

/** Ids outside of [0, numSegments) are left out: their rows become zeros added to row 0. */
function unsortedSegmentSum(c: LoweringContext): Ref {
  const x = c.in(0);
  const ids = c.b.reshape(c.in(1), [sizeOf(c.in(1).shape)]);
  const rows = c.number('numSegments');
  if (sizeOf(x.shape) === 0) return c.full(0);
  const inside = c.compare(
    'And',
    c.compare('GreaterOrEqual', ids, c.k(0, ids)),
    c.compare('Less', ids, c.k(rows, ids)),
  );
  const column = c.b.reshape(inside, [...ids.shape, ...x.shape.slice(1).map(() => 1)]);
  const kept = c.where(column, x, c.k(0, x));
  return addRows(c, kept, c.b.cast(c.where(inside, ids, c.k(0, ids)), 'int64'), rows);
}

/** Row numbers of coordinates `[..., depth]` into the first `depth` axes of a shape, as int64 `[n]`. */
function rowNumbers(c: LoweringContext, indices: Ref, shape: readonly number[]): Ref {
  const depth = indices.shape.at(-1) as number;
  const n = sizeOf(indices.shape.slice(0, -1));
  const strides = Array.from({ length: depth }, (_, i) => sizeOf(shape.slice(i + 1, depth)));
  const wide = c.b.reshape(c.b.cast(indices, 'int64'), [n, depth]);
  const weighted = c.map('Mul', wide, c.b.ints(strides));
  return c.reduce('ReduceSum', weighted, [1], false);
}

function gatherNd(c: LoweringContext): Ref {
  const [x, indices] = [c.in(0), c.in(1)];
  const depth = indices.shape.at(-1) as number;
  if (depth === 0) {
    const times = c.b.reshape(x, [...indices.shape.slice(0, -1).map(() => 1), ...x.shape]);
    return c.b.op('Expand', [times, c.b.ints(c.out.shape)], {}, { dtype: x.dtype, shape: c.out.shape });
  }
  return c.b.op('GatherND', [x, c.b.cast(indices, 'int64')], {}, { dtype: x.dtype, shape: c.out.shape });
}

function scatterNd(c: LoweringContext): Ref {
  const [indices, updates] = [c.in(0), c.in(1)];
  const shape = c.out.shape;
  const depth = indices.shape.at(-1) as number;
  if (sizeOf(updates.shape) === 0) return c.full(0);
  const rest = shape.slice(depth);
  const number = updates.dtype === 'bool' ? c.b.cast(updates, 'int32') : updates;
  const flat = c.b.reshape(number, [sizeOf(updates.shape) / sizeOf(rest), ...rest]);
  const sum = addRows(c, flat, rowNumbers(c, indices, shape), sizeOf(shape.slice(0, depth)));
  return c.b.cast(c.b.reshape(sum, shape), c.out.dtype);
}

/** The last of several updates of one place wins, as in tfjs; with more than one thread ONNX Runtime leaves it open. */
function tensorScatterUpdate(c: LoweringContext): Ref {
  const [tensor, indices, updates] = [c.in(0), c.in(1), c.in(2)];
  if (sizeOf(updates.shape) === 0) return tensor;
  return c.b.op('ScatterND', [tensor, c.b.cast(indices, 'int64'), updates], {}, tensor);
}

function oneHot(c: LoweringContext): Ref {
  const indices = c.in(0);
  const depth = c.number('depth');
  const classes = c.b.constant(
    'int32',
    [depth],
    typedArray(
      'int32',
      Array.from({ length: depth }, (_, i) => i),
    ),
  );
  const hit = c.compare('Equal', c.b.reshape(c.b.cast(indices, 'int32'), [...indices.shape, 1]), classes);
  const [on, off] = [c.number('onValue', 1), c.number('offValue', 0)];
  if (on === 1 && off === 0) return c.b.cast(hit, c.out.dtype);
  const through = c.out.dtype === 'bool' ? 'int32' : c.out.dtype;
  return c.b.cast(c.where(hit, c.b.scalar(on, through), c.b.scalar(off, through)), c.out.dtype);
}

/** Reading and writing by index. */
export const indexing: LoweringTable = {
  GatherV2: (c) => c.gather(c.in(0), c.in(1), c.axis('axis', c.in(0).shape.length)),
  GatherNd: gatherNd,
  ScatterNd: scatterNd,
  TensorScatterUpdate: tensorScatterUpdate,
  UnsortedSegmentSum: unsortedSegmentSum,
  OneHot: oneHot,
};
