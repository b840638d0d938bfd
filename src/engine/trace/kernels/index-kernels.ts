import type { Signature } from '../../engine.ts';
import type { GraphDType } from '../../graph.ts';
import { defineKernel } from '../definition.ts';

/** Takes slices of `x` along one non-negative `axis`; there are no batch dimensions (they are composed away). */
defineKernel('GatherV2', ['x', 'indices'], (inputs, attrs) => {
  const [x, indices] = inputs as [Signature, Signature];
  const axis = attrs.axis as number;
  const shape = [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)];
  return { outputs: [{ dtype: x.dtype, shape }], attrs: { axis, batchDims: 0 } };
});

/** The last axis of `indices` holds coordinates into the first axes of `params`. */
defineKernel('GatherNd', ['params', 'indices'], (inputs) => {
  const [params, indices] = inputs as [Signature, Signature];
  const depth = indices.shape[indices.shape.length - 1] as number;
  const shape = [...indices.shape.slice(0, -1), ...params.shape.slice(depth)];
  return { outputs: [{ dtype: params.dtype, shape }], attrs: {} };
});

/** Zeros of `shape` with `updates` added at `indices`; what falls on the same place is summed. */
defineKernel('ScatterNd', ['indices', 'updates'], (inputs, attrs) => {
  const shape = [...(attrs.shape as number[])];
  return { outputs: [{ dtype: (inputs[1] as Signature).dtype, shape }], attrs: { shape } };
});

/** `tensor` with `updates` put at `indices`. */
defineKernel('TensorScatterUpdate', ['tensor', 'indices', 'updates'], (inputs) => ({
  outputs: [inputs[0] as Signature],
  attrs: {},
}));

/** Rows of `x` summed by id; `segmentIds` is of rank 1, and ids outside of [0, numSegments) are left out. */
defineKernel('UnsortedSegmentSum', ['x', 'segmentIds'], (inputs, attrs) => {
  const x = inputs[0] as Signature;
  const numSegments = attrs.numSegments as number;
  return { outputs: [{ dtype: x.dtype, shape: [numSegments, ...x.shape.slice(1)] }], attrs: { numSegments } };
});

/** A new last axis of size `depth`: `onValue` at the index, `offValue` elsewhere and for indices out of range. */
defineKernel('OneHot', ['indices'], (inputs, attrs) => {
  const dtype = (attrs.dtype ?? 'int32') as GraphDType;
  const depth = attrs.depth as number;
  const shape = [...(inputs[0] as Signature).shape, depth];
  return {
    outputs: [{ dtype, shape }],
    attrs: { depth, onValue: attrs.onValue ?? 1, offValue: attrs.offValue ?? 0, dtype },
  };
});

/** Names of the kernels of this file, for registration (GatherV2 is registered with its batch dimensions composed). */
export const indexKernels = ['GatherNd', 'ScatterNd', 'TensorScatterUpdate', 'OneHot'];
