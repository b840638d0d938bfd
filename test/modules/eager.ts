import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import type { Signature } from '../../src/engine/index.ts';
import { tf as engineTf } from '../../src/engine/index.ts';
import type { LayerFunction, LayerFunctionOptions, Module } from '../../src/modules/index.ts';
import { initParams, initState, layerFunction } from '../../src/modules/index.ts';
import type { HostTensor } from '../../src/tensor/index.ts';
import { float32, int32 } from '../../src/tensor/index.ts';

// Modules import tfjs directly, and the engine registers its gradients: both must be the same tfjs.
if (engineTf.engine() !== tf.engine()) throw new Error('two copies of tfjs-core are loaded');

/** Numbers of a result. */
export interface Values {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array | Uint8Array;
}

/** Outputs of a layer function by what they are. */
export interface LayerRun {
  readonly fn: LayerFunction;
  readonly activations: readonly Values[];
  readonly objective: number;
  readonly metrics: Readonly<Record<string, Values>>;
  readonly contributions: Readonly<Record<string, Values>>;
  /** By input index; only when gradients were asked for. */
  readonly gradients: readonly (Values | null)[];
}

/** Options of `runModule`. */
export interface RunOptions extends Partial<LayerFunctionOptions> {
  /** By absolute path (the module is at `m`); drawn from seed 1 where missing. */
  readonly params?: Readonly<Record<string, HostTensor>>;
  readonly state?: Readonly<Record<string, HostTensor>>;
  readonly key?: readonly [number, number];
  /** Cotangents of the activations (ones where missing); their product with the outputs, plus the objective, is differentiated. */
  readonly cotangents?: readonly HostTensor[];
  readonly gradients?: boolean;
}

/** Puts a module at path `m` and runs its layer function eagerly on tfjs's cpu backend. */
export async function runModule(
  module: Module,
  inputs: readonly HostTensor[],
  options: RunOptions = {},
): Promise<LayerRun> {
  const { training = true, gradients = false } = options;
  const all = inputs.map((t): Signature => ({ dtype: t.dtype as Signature['dtype'], shape: t.shape }));
  const own = options.loss ? all.slice(0, all.length - (options.targets?.length ?? 0)) : all;
  const fn = layerFunction({ name: 'm', module }, own, { training, loss: options.loss, targets: options.targets });
  const params = { ...initParams(fn.params, 1), ...options.params };
  const state = { ...initState(fn.state, 1), ...options.state };
  const hosts = [
    ...fn.params.map(({ path }) => params[path] as HostTensor),
    ...fn.state.map(({ path }) => state[path] as HostTensor),
    int32([...(options.key ?? [3, 4])], [2]),
    ...inputs,
  ];
  await tf.setBackend('cpu');
  let result: LayerRun | undefined;
  tf.tidy(() => {
    const tensors = hosts.map((t) => tf.tensor(t.data as Float32Array, [...t.shape], t.dtype as 'float32'));
    const stateEnd = fn.params.length + fn.state.length;
    const wanted = tensors.map((t, i) => t.dtype === 'float32' && (i < fn.params.length || i >= stateEnd));
    const floats = tensors.filter((_, i) => wanted[i]);
    const layout = fn.layout;
    let outputs: tf.Tensor[] = [];
    const objective = (...given: tf.Tensor[]): tf.Scalar => {
      let next = 0;
      outputs = [...(fn.fn(...tensors.map((t, i) => (wanted[i] ? (given[next++] as tf.Tensor) : t))) as tf.Tensor[])];
      const parts = outputs
        .slice(0, layout.objective)
        .filter((o) => o.dtype === 'float32')
        .map((o, i) => {
          const cotangent = options.cotangents?.[i];
          return tf.sum(cotangent ? tf.mul(o, tf.tensor(cotangent.data as Float32Array, [...cotangent.shape])) : o);
        });
      for (const o of outputs) tf.keep(o);
      return parts.reduce<tf.Tensor>((sum, p) => tf.add(sum, p), outputs[layout.objective] as tf.Tensor) as tf.Scalar;
    };
    let grads: (Values | null)[] = [];
    if (gradients) {
      const found = [...tf.grads(objective)(floats)];
      grads = tensors.map((_, i) => (wanted[i] ? valuesOf(found.shift() as tf.Tensor) : null));
    } else objective(...floats);
    const read = outputs.map(valuesOf);
    for (const o of outputs) o.dispose();
    const at = layout.objective + 1;
    result = {
      fn,
      activations: read.slice(0, layout.objective),
      objective: read[layout.objective]?.data[0] as number,
      metrics: Object.fromEntries(layout.metrics.map(({ name }, i) => [name, read[at + i] as Values])),
      contributions: Object.fromEntries(
        layout.contributions.map((path, i) => [path, read[at + layout.metrics.length + i] as Values]),
      ),
      gradients: grads,
    };
  });
  return result as LayerRun;
}

function valuesOf(t: tf.Tensor): Values {
  return { shape: t.shape, data: t.dataSync().slice() as Values['data'] };
}

/** Reproducible numbers in about ±1.7, without a generator. */
export function wave(shape: readonly number[], phase = 0): HostTensor {
  const size = shape.reduce((a, b) => a * b, 1);
  return float32(
    Float32Array.from({ length: size }, (_, i) => 1.7 * Math.sin(i * 12.9898 + phase * 78.233 + 1)),
    shape,
  );
}
