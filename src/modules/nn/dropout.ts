import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { Context, Module } from '../module.ts';

/**
 * Sets each value to zero with probability `rate` in training and divides the others by `1 - rate` (Srivastava et al.
 * 2014). @throws RangeError unless 0 ≤ rate < 1.
 */
export function dropout(rate: number): Module {
  checkRate(rate);
  return { kind: 'dropout', forward: (_params, [x], ctx) => applyDropout(x, rate, ctx) };
}

/** Dropout as a function, for modules that use it inside. Draws from `ctx`, and does nothing outside training. */
export function applyDropout(x: Tensor, rate: number, ctx: Context): Tensor {
  if (rate === 0 || !ctx.training) return x;
  const kept = tf.cast(tf.greaterEqual(ctx.uniform(x.shape), rate), 'float32');
  return tf.mul(x, tf.mul(kept, 1 / (1 - rate)));
}

/** @throws RangeError unless 0 ≤ rate < 1. */
export function checkRate(rate: number): void {
  if (!(rate >= 0 && rate < 1)) throw new RangeError(`a dropout rate must be at least 0 and below 1, not ${rate}`);
}
