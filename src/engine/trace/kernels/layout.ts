import { type Shape, sizeOf } from '../../../tensor/index.ts';
import type { Signature } from '../../engine.ts';
import type { GraphDType } from '../../graph.ts';
import { defineKernel } from '../definition.ts';
import { tf } from '../tf.ts';

const first = (inputs: readonly Signature[]): Signature => inputs[0] as Signature;

/** `shape` without -1. */
defineKernel('Reshape', ['x'], (inputs, attrs) => {
  const x = first(inputs);
  const shape = tf.util.inferFromImplicitShape(attrs.shape as number[], sizeOf(x.shape));
  if (sizeOf(shape) !== sizeOf(x.shape))
    throw new RangeError(`${sizeOf(x.shape)} elements cannot take the shape [${attrs.shape as number[]}]`);
  return { outputs: [{ dtype: x.dtype, shape }], attrs: { shape } };
});

defineKernel('Transpose', ['x'], (inputs, attrs) => {
  const x = first(inputs);
  const perm = attrs.perm as number[];
  return {
    outputs: [{ dtype: x.dtype, shape: perm.map((axis) => x.shape[axis] as number) }],
    attrs: { perm: [...perm] },
  };
});

/** `begin` and `size` of full rank, sizes not -1. */
defineKernel('Slice', ['x'], (inputs, attrs) => {
  const x = first(inputs);
  const rankOnly = { shape: [...x.shape], rank: x.shape.length } as never;
  const [begin, size] = tf.slice_util.parseSliceParams(rankOnly, attrs.begin as number[], attrs.size as number[]);
  tf.slice_util.assertParamsValid(rankOnly, begin as number[], size as number[]);
  return {
    outputs: [{ dtype: x.dtype, shape: size as number[] }],
    attrs: { begin: begin as number[], size: size as number[] },
  };
});

/** Positive strides only, no masks: `begin`, `end` and `strides` of full rank. */
defineKernel('StridedSlice', ['x'], (inputs, attrs) => {
  const x = first(inputs);
  const [begin, end, strides] = [attrs.begin, attrs.end, attrs.strides] as [number[], number[], number[]];
  const shape = x.shape.map((_, i) =>
    Math.max(0, Math.ceil(((end[i] as number) - (begin[i] as number)) / (strides[i] as number))),
  );
  const masks = { beginMask: 0, endMask: 0, ellipsisMask: 0, newAxisMask: 0, shrinkAxisMask: 0 };
  return { outputs: [{ dtype: x.dtype, shape }], attrs: { begin, end, strides, ...masks } };
});

/** Non-negative `axis`; at least one input. */
defineKernel('Concat', 'list', (inputs, attrs) => {
  const shapes = inputs.map((input) => [...input.shape]);
  const axis = tf.util.parseAxisParam(attrs.axis as number, shapes[0] as number[])[0] as number;
  tf.backend_util.assertParamsConsistent(shapes, axis);
  return {
    outputs: [{ dtype: first(inputs).dtype, shape: tf.backend_util.computeOutShape(shapes, axis) }],
    attrs: { axis },
  };
});

/** Constant padding: `paddings` is `[before, after]` of each axis. */
defineKernel('PadV2', ['x'], (inputs, attrs) => {
  const x = first(inputs);
  const paddings = attrs.paddings as [number, number][];
  const shape = x.shape.map((dim, i) => dim + (paddings[i]?.[0] ?? 0) + (paddings[i]?.[1] ?? 0));
  const full = x.shape.map((_, i) => [paddings[i]?.[0] ?? 0, paddings[i]?.[1] ?? 0]);
  return { outputs: [{ dtype: x.dtype, shape }], attrs: { paddings: full, constantValue: attrs.constantValue ?? 0 } };
});

/** `reps` of full rank; broadcasting is a Tile whose repeated axes have size 1. */
defineKernel('Tile', ['x'], (inputs, attrs) => {
  const x = first(inputs);
  const reps = attrs.reps as number[];
  return {
    outputs: [{ dtype: x.dtype, shape: x.shape.map((dim, i) => dim * (reps[i] as number)) }],
    attrs: { reps: [...reps] },
  };
});

/** `dims` is a list of non-negative axes. */
defineKernel('Reverse', ['x'], (inputs, attrs) => {
  const x = first(inputs);
  const dims = tf.util.parseAxisParam(attrs.dims as number[], [...x.shape]);
  return { outputs: [x], attrs: { dims } };
});

/** A tensor of one number: `shape`, `value`, `dtype`. No inputs. */
defineKernel('Fill', [], (_inputs, attrs) => {
  const dtype = (attrs.dtype ?? 'float32') as GraphDType;
  const shape = attrs.shape as Shape;
  return { outputs: [{ dtype, shape }], attrs: { shape: [...shape], value: Number(attrs.value), dtype } };
});

/** `start + i * step` as long as it is before `stop`. No inputs. */
defineKernel('Range', [], (_inputs, attrs) => {
  const { start, stop, step } = attrs as { start: number; stop: number; step: number };
  const empty = start === stop || (start < stop && step < 0) || (stop < start && step > 1);
  const size = empty ? 0 : Math.abs(Math.ceil((stop - start) / step));
  const dtype = (attrs.dtype ?? 'float32') as GraphDType;
  return {
    outputs: [{ dtype, shape: [size] }],
    attrs: { start, stop, step: stop < start && step === 1 ? -1 : step, dtype },
  };
});

/** Names of the kernels of this file, for registration. */
export const layoutKernels = ['Transpose', 'Slice', 'Concat', 'PadV2', 'Tile', 'Reverse', 'Fill', 'Range'];
