import * as tf from '@tensorflow/tfjs-core';
import type { Context, Module } from '../../src/modules/index.ts';
import { init, param } from '../../src/modules/index.ts';

/** Width of the tokens. */
export const DIM = 6;

/** A mixture whose experts run inside the layer, expert e being tanh(x · W[e]), so that tfjs can differentiate it eagerly. */
export function inlined(mixture: Module, experts: number): Module {
  return {
    ...mixture,
    experts: undefined,
    params: { experts: param([experts, DIM, DIM], init.normal(0.5)) },
    forward(params, inputs, ctx) {
      const local = (rows: tf.Tensor, counts: tf.Tensor): tf.Tensor => {
        const n = rows.shape[0] as number;
        const end = tf.cumsum(tf.cast(counts, 'float32'), 0);
        const start = tf.sub(end, counts);
        const at = tf.tensor2d(
          Float32Array.from({ length: n }, (_, i) => i),
          [n, 1],
        );
        const mine = tf.cast(tf.logicalAnd(tf.greaterEqual(at, start), tf.less(at, end)), 'float32');
        return blend(rows, params.experts as tf.Tensor, mine);
      };
      const proxy = new Proxy(ctx, {
        get: (target, name) => {
          if (name === 'experts') return local;
          const value = Reflect.get(target, name, target) as unknown;
          return typeof value === 'function' ? value.bind(target) : value;
        },
      }) as Context;
      return mixture.forward(params, inputs, proxy);
    },
  };
}

/** Σ_e weight[t, e] · tanh(x_t · W[e]): every expert on every row. */
export function blend(x: tf.Tensor, weights: tf.Tensor, gates: tf.Tensor): tf.Tensor {
  const all = tf.tanh(tf.matMul(tf.tile(tf.expandDims(x, 0), [weights.shape[0] as number, 1, 1]), weights));
  return tf.sum(tf.mul(all, tf.expandDims(tf.transpose(gates), 2)), 0);
}
