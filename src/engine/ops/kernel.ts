import type { KernelConfig, NamedAttrMap, NamedTensorMap, Tensor, TensorInfo } from '@tensorflow/tfjs-core';
import { tf } from '../trace/index.ts';

/** tfjs backends that compute: the ones on which our kernels also run eagerly. */
const eagerBackends = ['cpu', 'wasm', 'webgl', 'webgpu', 'tensorflow'];

/**
 * Registers a kernel of ours on every computing tfjs backend, written as ordinary tfjs ops. (The tracing backend records
 * it as one node instead.)
 */
export function eagerKernel(
  kernelName: string,
  compute: (inputs: Readonly<Record<string, Tensor>>, attrs: Readonly<Record<string, unknown>>) => Tensor | Tensor[],
): void {
  for (const backendName of eagerBackends) {
    const config: KernelConfig = {
      kernelName,
      backendName,
      kernelFunc: ({ inputs, attrs }) => {
        const result = tf.tidy(() => compute(inputs as NamedTensorMap, attrs ?? {}));
        return result as TensorInfo | TensorInfo[];
      },
    };
    tf.registerKernel(config);
  }
}

/** Registers the gradient of a kernel of ours. `dys` has one cotangent for each output. */
export function kernelGradient(
  kernelName: string,
  save: { readonly inputs?: readonly string[]; readonly outputs?: readonly boolean[] },
  grads: (
    dys: readonly Tensor[],
    saved: readonly Tensor[],
    attrs: Readonly<Record<string, unknown>>,
  ) => Readonly<Record<string, () => Tensor>>,
): void {
  tf.registerGradient({
    kernelName,
    inputsToSave: [...(save.inputs ?? [])],
    outputsToSave: [...(save.outputs ?? [])],
    gradFunc: (dy, saved, attrs) => ({ ...grads(Array.isArray(dy) ? dy : [dy], saved, attrs) }),
  });
}

/** Runs a kernel that has one output. */
export function runKernel(kernel: string, inputs: Readonly<Record<string, Tensor>>, attrs: object = {}): Tensor {
  return tf.engine().runKernel(kernel, { ...inputs }, attrs as NamedAttrMap) as Tensor;
}

/** Runs a kernel that has several outputs. */
export function runKernelAll(kernel: string, inputs: Readonly<Record<string, Tensor>>, attrs: object = {}): Tensor[] {
  return tf.engine().runKernel(kernel, { ...inputs }, attrs as NamedAttrMap) as Tensor[];
}
