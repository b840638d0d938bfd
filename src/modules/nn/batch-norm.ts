import * as tf from '@tensorflow/tfjs-core';
import * as init from '../init.ts';
import type { Module, StateSpec } from '../module.ts';
import { param } from '../param.ts';
import { lastAxis } from './linear.ts';

/** Options of `batchNorm`. */
export interface BatchNormOptions {
  readonly eps?: number;
  /** Share of the new statistics in the running ones after each step (PyTorch's meaning). Default 0.1. */
  readonly momentum?: number;
}

/**
 * Batch normalisation over all axes but the last (Ioffe and Szegedy 2015): `[batch, ..., channels]` → the same. In
 * training each global microbatch is normalised by its own mean and variance; the running statistics move once a step
 * towards the average over the microbatches (variances unbiased, as PyTorch keeps them), whatever rank computed which.
 */
export function batchNorm(channels: number, options: BatchNormOptions = {}): Module {
  const { eps = 1e-5, momentum = 0.1 } = options;
  const running = (start: number): StateSpec => ({
    shape: [channels],
    init: start,
    update: (state, contribution, microbatches) =>
      tf.add(tf.mul(state, 1 - momentum), tf.mul(contribution, momentum / microbatches)),
  });
  return {
    kind: 'batchNorm',
    params: { gain: param([channels], init.ones), bias: param([channels], init.zeros) },
    state: { mean: running(0), variance: running(1) },
    forward({ gain, bias }, [input], ctx) {
      const x = lastAxis(input, channels);
      if (!ctx.training) {
        // One multiply-add a value: the statistics fold into a scale and a shift.
        const scale = tf.mul(gain, tf.rsqrt(tf.add(ctx.state.variance, eps)));
        const shift = tf.sub(bias, tf.mul(ctx.state.mean, scale));
        return tf.add(tf.mul(x, scale), shift);
      }
      const axes = x.shape.slice(0, -1).map((_, axis) => axis);
      const count = x.size / channels;
      if (count < 2)
        throw new Error(`batch norm needs two or more values a channel in training; [${x.shape}] has ${count}`);
      const mean = tf.mean(x, axes);
      const centred = tf.sub(x, mean);
      const variance = tf.mean(tf.square(centred), axes);
      ctx.contribute('mean', mean);
      ctx.contribute('variance', tf.mul(variance, count / (count - 1)));
      const scale = tf.mul(gain, tf.rsqrt(tf.add(variance, eps)));
      return tf.add(tf.mul(centred, scale), bias);
    },
  };
}
