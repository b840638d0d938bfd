import type { GradConfig, GradFunc, NamedAttrMap, Tensor } from '@tensorflow/tfjs-core';
import { sizeOf } from '../../../tensor/index.ts';
import { sameShape } from '../recorder.ts';
import { tf } from '../tf.ts';

/** Attributes of a tfjs kernel. */
export type Values = Readonly<Record<string, unknown>>;
/** As many tensors as a gradient asked to be saved. */
type Saved = readonly [Tensor, Tensor, Tensor, Tensor];
type Grads = Readonly<Record<string, () => Tensor>>;

export function gradient(
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
export function spread(x: Tensor, shape: readonly number[]): Tensor {
  return sizeOf(shape) === 0 ? tf.zeros([...shape]) : tf.broadcastTo(x, [...shape]);
}

export function axesOf(attrs: Values, shape: number[], name = 'axis'): number[] {
  return tf.util.parseAxisParam((attrs[name] ?? null) as number[], shape);
}

export function keptShape(shape: readonly number[], axes: readonly number[]): number[] {
  return shape.map((dim, i) => (axes.includes(i) ? 1 : dim));
}

/** Runs a tfjs kernel. */
export function run(kernel: string, inputs: Readonly<Record<string, Tensor>>, attrs: Values): Tensor {
  return tf.engine().runKernel(kernel, inputs, attrs as unknown as NamedAttrMap) as Tensor;
}
