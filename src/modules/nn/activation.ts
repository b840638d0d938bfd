import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { gelu, silu } from '../../engine/index.ts';
import type { Module } from '../module.ts';

/** Element-wise functions by name. `gelu` is exact (erf), `gelu-tanh` the usual approximation (Hendrycks and Gimpel 2016). */
export const activations = {
  identity: (x: Tensor) => x,
  relu: (x: Tensor) => tf.relu(x),
  relu6: (x: Tensor) => tf.relu6(x),
  leakyRelu: (x: Tensor) => tf.leakyRelu(x, 0.01),
  elu: (x: Tensor) => tf.elu(x),
  gelu: (x: Tensor) => gelu(x, 'none'),
  'gelu-tanh': (x: Tensor) => gelu(x, 'tanh'),
  silu: (x: Tensor) => silu(x),
  softplus: (x: Tensor) => tf.softplus(x),
  sigmoid: (x: Tensor) => tf.sigmoid(x),
  tanh: (x: Tensor) => tf.tanh(x),
  softmax: (x: Tensor) => tf.softmax(x),
} as const;

/** Name of an element-wise function. */
export type ActivationName = keyof typeof activations;

/** All activation names, for schemas. */
export const activationNames = Object.keys(activations) as [ActivationName, ...ActivationName[]];

/** An element-wise function as a module. Softmax is over the last axis. */
export function activation(name: ActivationName): Module {
  const apply = activations[name];
  return { kind: name, forward: (_params, [x]) => apply(x) };
}
