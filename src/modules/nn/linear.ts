import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import * as init from '../init.ts';
import type { Initializer, Module, Tensors } from '../module.ts';
import { param } from '../param.ts';

/** Options of `linear`. */
export interface LinearOptions {
  /** Adds a bias `[out]`. Default true. */
  readonly bias?: boolean;
  /** Default: uniform in ±1/√in, as PyTorch's `nn.Linear`. */
  readonly init?: Initializer;
  readonly biasInit?: Initializer;
}

/**
 * `x · weight + bias` over the last axis: float32 `[..., in]` → `[..., out]`. `weight` is `[in, out]`. Leading axes are
 * flattened first, so that the product and both of its gradients are plain matrix products.
 */
export function linear(inputs: number, outputs: number, options: LinearOptions = {}): Module {
  const { bias = true, init: weightInit = init.kaimingUniform(1 / Math.sqrt(3)), biasInit = init.zeros } = options;
  return {
    kind: 'linear',
    params: {
      weight: param([inputs, outputs], weightInit),
      ...(bias ? { bias: param([outputs], biasInit) } : {}),
    },
    forward(params, [x]) {
      const input = lastAxis(x, inputs);
      return project(input, params);
    },
  };
}

/** `x · params.weight (+ params.bias)` over the last axis of x, of any rank. */
export function project(x: Tensor, params: Tensors): Tensor {
  const weight = params.weight as tf.Tensor2D;
  const outputs = weight.shape[1];
  const rows = x.rank === 2 ? (x as tf.Tensor2D) : tf.reshape(x, [-1, weight.shape[0]]);
  const product = tf.matMul(rows as tf.Tensor2D, weight);
  const y = 'bias' in params ? tf.add(product, params.bias) : product;
  return x.rank === 2 ? y : tf.reshape(y, [...x.shape.slice(0, -1), outputs]);
}

/** The one input of a module whose last axis must be `width` wide. @throws Error that says what it is instead. */
export function lastAxis(x: Tensor | undefined, width: number): Tensor {
  if (!x) throw new Error('no input was given; expected one tensor');
  if (x.rank < 1 || x.shape[x.rank - 1] !== width)
    throw new Error(`the input is [${x.shape}], but its last axis should be ${width}`);
  return x;
}
