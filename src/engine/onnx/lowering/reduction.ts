import { sizeOf } from '../../../tensor/index.ts';
import type { Ref } from '../model.ts';
import { type Lowering, type LoweringContext, type LoweringTable, reducedShape } from './context.ts';

/**
 * A reduction. `empty` is its value over no elements, which ONNX Runtime does not agree on with tfjs.
 * `through` is the dtype to compute in for bools.
 */
function reduction(type: string, axesName: string, empty: number): Lowering {
  return (c) => {
    const x = c.in(0);
    const axes = c.axes(axesName, x.shape.length);
    if (sizeOf(x.shape) === 0) return c.full(empty);
    const number = x.dtype === 'bool' ? c.b.cast(x, 'int32') : x;
    return c.b.cast(c.b.reshape(c.reduce(type, number, axes, c.flag('keepDims')), c.out.shape), c.out.dtype);
  };
}

function mean(c: LoweringContext): Ref {
  const x = c.b.cast(c.in(0), 'float32');
  if (sizeOf(x.shape) === 0) return c.full(Number.NaN);
  return c.b.reshape(c.reduce('ReduceMean', x, c.axes('axis', x.shape.length), c.flag('keepDims')), c.out.shape);
}

function argReduction(type: 'ArgMax' | 'ArgMin'): Lowering {
  return (c) => {
    const x = c.in(0).dtype === 'bool' ? c.b.cast(c.in(0), 'int32') : c.in(0);
    const axis = c.axes('axis', x.shape.length)[0] ?? 0;
    if (x.shape.length === 0 || sizeOf(x.shape) === 0) return c.full(0);
    const index = c.b.op(
      type,
      [x],
      { axis, keepdims: 0 },
      { dtype: 'int64', shape: reducedShape(x.shape, [axis], false) },
    );
    return c.b.cast(index, 'int32');
  };
}

function cumsum(c: LoweringContext): Ref {
  const x = c.in(0).dtype === 'bool' ? c.b.cast(c.in(0), 'int32') : c.in(0);
  const attrs = { exclusive: c.flag('exclusive') ? 1 : 0, reverse: c.flag('reverse') ? 1 : 0 };
  return c.b.op('CumSum', [x, c.b.scalar(c.axis('axis', x.shape.length), 'int64')], attrs, x);
}

/** tfjs: softmax along the last dimension (`dim`); of an empty tensor it is empty, which the caller handles. */
function softmax(type: string, axisName: string): Lowering {
  return (c) => {
    const x = c.b.cast(c.in(0), 'float32');
    if (x.shape.length === 0) return c.full(type === 'Softmax' ? 1 : 0);
    const axis = c.has(axisName) ? c.axis(axisName, x.shape.length) : x.shape.length - 1;
    return c.b.op(type, [x], { axis }, x);
  };
}

function topK(c: LoweringContext): readonly Ref[] {
  const x = c.in(0);
  const shape = (c.outputs[0] as { shape: readonly number[] }).shape;
  const [values, indices] = c.b.ops('TopK', [x, c.b.ints([c.number('k', 1)])], { axis: -1, largest: 1, sorted: 1 }, [
    { dtype: x.dtype, shape },
    { dtype: 'int64', shape },
  ]) as [Ref, Ref];
  return [values, c.b.cast(indices, 'int32')];
}

function squaredSum(c: LoweringContext): Ref {
  const x = c.in(0);
  if (sizeOf(x.shape) === 0) return c.full(0);
  if (x.shape.length === 0) return c.map('Mul', x, x);
  return c.reduce(
    'ReduceSumSquare',
    x,
    x.shape.map((_, axis) => axis),
    false,
  );
}

/** Reductions, scans, softmax and selection along an axis. */
export const reductions: LoweringTable = {
  Sum: reduction('ReduceSum', 'axis', 0),
  Prod: reduction('ReduceProd', 'axis', 1),
  Max: reduction('ReduceMax', 'reductionIndices', Number.NEGATIVE_INFINITY),
  Min: reduction('ReduceMin', 'axis', Number.POSITIVE_INFINITY),
  All: reduction('ReduceMin', 'axis', 1),
  Any: reduction('ReduceMax', 'axis', 0),
  Mean: mean,
  PlexusSquaredSum: squaredSum,
  ArgMax: argReduction('ArgMax'),
  ArgMin: argReduction('ArgMin'),
  Cumsum: cumsum,
  Softmax: softmax('Softmax', 'dim'),
  LogSoftmax: softmax('LogSoftmax', 'axis'),
  TopK: topK,
};
