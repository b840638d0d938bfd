import { type Shape, sizeOf } from '../../../tensor/index.ts';
import { type Ref, typedArray } from '../model.ts';
import type { LoweringContext, LoweringTable } from './context.ts';

function slice(c: LoweringContext): Ref {
  const x = c.in(0);
  return strided(
    c,
    x,
    c.numbers('begin'),
    c.out.shape,
    x.shape.map(() => 1),
  );
}

/** `count` elements of each axis from `begin`, `stride` apart. */
function strided(c: LoweringContext, x: Ref, begin: readonly number[], count: Shape, stride: readonly number[]): Ref {
  const axes = x.shape.flatMap((dim, i) => (count[i] === dim && stride[i] === 1 ? [] : [i]));
  if (axes.length === 0) return x;
  const pick = (values: readonly number[]) => c.b.ints(axes.map((axis) => values[axis] as number));
  const ends = begin.map((first, i) => first + ((count[i] as number) - 1) * (stride[i] as number) + 1);
  const operands = [x, pick(begin), pick(ends), c.b.ints(axes), pick(stride)];
  return c.b.op('Slice', operands, {}, { dtype: x.dtype, shape: count });
}

function pad(c: LoweringContext): Ref {
  const x = c.in(0);
  const pairs = c.pairs('paddings');
  if (pairs.every(([before, after]) => before === 0 && after === 0)) return x;
  const value = c.number('constantValue', 0);
  if (sizeOf(x.shape) === 0) return c.full(value);
  // Bools go through int32: not every provider pads bytes.
  const padded = x.dtype === 'bool' ? c.b.cast(x, 'int32') : x;
  const pads = c.b.ints([...pairs.map((pair) => pair[0]), ...pairs.map((pair) => pair[1])]);
  const out = c.b.op('Pad', [padded, pads, c.k(value, padded)], {}, { dtype: padded.dtype, shape: c.out.shape });
  return c.b.cast(out, x.dtype);
}

/** Repeating an axis of size 1 is a broadcast. */
function tile(c: LoweringContext): Ref {
  const x = c.in(0);
  const reps = c.numbers('reps');
  const spec = { dtype: x.dtype, shape: c.out.shape };
  if (reps.every((times) => times === 1)) return x;
  if (reps.every((times, i) => times === 1 || x.shape[i] === 1))
    return c.b.op('Expand', [x, c.b.ints(spec.shape)], {}, spec);
  return c.b.op('Tile', [x, c.b.ints(reps)], {}, spec);
}

function reverse(c: LoweringContext): Ref {
  const x = c.in(0);
  const axes = c.axes('dims', x.shape.length).filter((axis) => (x.shape[axis] as number) > 1);
  if (axes.length === 0) return x;
  const all = (value: number) => c.b.ints(axes.map(() => value));
  return c.b.op('Slice', [x, all(-1), all(-(2 ** 31)), c.b.ints(axes), all(-1)], {}, x);
}

function range(c: LoweringContext): Ref {
  const [start, step] = [c.number('start'), c.number('step')];
  const size = c.out.shape[0] as number;
  const values = Array.from({ length: size }, (_, i) => start + i * step);
  return c.b.constant(c.out.dtype, c.out.shape, typedArray(c.out.dtype, values));
}

/** Movement of data, and tensors made from nothing. */
export const layout: LoweringTable = {
  Reshape: (c) => c.b.reshape(c.in(0), c.out.shape),
  Transpose: (c) => c.b.transpose(c.in(0), c.numbers('perm')),
  Slice: slice,
  StridedSlice: (c) => strided(c, c.in(0), c.numbers('begin'), c.out.shape, c.numbers('strides')),
  Concat: (c) => c.concat(c.inputs, c.axis('axis', c.in(0).shape.length)),
  PadV2: pad,
  Tile: tile,
  Reverse: reverse,
  Fill: (c) => c.full(c.number('value')),
  Range: range,
};
