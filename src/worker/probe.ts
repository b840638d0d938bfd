import * as tf from '@tensorflow/tfjs-core';
import type { Signature, TensorFunction } from '../engine/index.ts';
import { type Context, type Layer, layerFunction, type Module } from '../modules/index.ts';

/** A layer as a function that says of every module's output whether it is finite. */
export interface Probe {
  /** Inputs: those of the layer function, then the result of each expert call. Output: one value for each of `paths`. */
  readonly fn: TensorFunction;
  readonly signature: readonly Signature[];
  /** Absolute paths in the order in which the modules finish; `<path>.experts` for what experts returned. Set by tracing. */
  readonly paths: readonly string[];
}

/**
 * Wraps a layer so that it returns, for each module in it, the sum of the absolute values of its outputs: NaN or
 * infinite if one of them is. Experts are not run: what they returned is given.
 */
export function probeLayer(
  layer: Layer,
  inputs: readonly Signature[],
  results: readonly Signature[],
  loss: { readonly module: Module; readonly targets: readonly Signature[] } | null,
): Probe {
  const paths: string[] = [];
  const sums: tf.Tensor[] = [];
  let given: readonly tf.Tensor[] | null = null;
  let call = 0;
  const record = (path: string, outputs: readonly tf.Tensor[]) => {
    const floats = outputs.filter((output) => output.dtype === 'float32');
    if (floats.length === 0) return;
    paths.push(path);
    sums.push(floats.map((output) => tf.sum(tf.abs(output))).reduce((a, b) => tf.add(a, b)));
  };
  const wrap = (module: Module): Module => {
    const children = Object.fromEntries(
      Object.entries(module.children ?? {}).map(([name, child]) => [name, wrap(child)]),
    );
    const forward: Module['forward'] = (params, moduleInputs, ctx) => {
      const probed: Context = Object.create(ctx, {
        experts: {
          value: (rows: tf.Tensor, counts: tf.Tensor) => {
            if (!given) return ctx.experts(rows, counts);
            const result = given[call++] as tf.Tensor;
            record(`${ctx.path}.experts`, [result]);
            return result;
          },
        },
      }) as Context;
      const outputs = module.forward(params, moduleInputs, probed);
      record(ctx.path, Array.isArray(outputs) ? (outputs as readonly tf.Tensor[]) : [outputs as tf.Tensor]);
      return outputs;
    };
    return Object.create(module, {
      children: { value: children, enumerable: true },
      forward: { value: forward },
    }) as Module;
  };
  const wrapped = layerFunction({ name: layer.name, module: wrap(layer.module) }, inputs, {
    training: true,
    ...(loss ? { loss: wrap(loss.module), targets: loss.targets } : {}),
  });
  return {
    paths,
    signature: [...wrapped.inputs, ...results],
    fn: (...all) => {
      paths.length = 0;
      sums.length = 0;
      call = 0;
      given = all.slice(wrapped.inputs.length);
      wrapped.fn(...all.slice(0, wrapped.inputs.length));
      given = null;
      return tf.stack(sums);
    },
  };
}
