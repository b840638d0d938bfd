import * as tf from '@tensorflow/tfjs-core';
import type { Module } from '../module.ts';
import { applyDropout, checkRate } from './dropout.ts';

/** Parts of a transformer block. */
export interface TransformerBlockOptions {
  readonly attention: Module;
  /** `[batch, time, dim]` → the same: `mlp`, `swiglu` or `moe`. Named `moe` in the path if it has experts, else `mlp`. */
  readonly feedForward: Module;
  /** Makes the norm before each part. */
  readonly norm: () => Module;
  /** Dropout of what each part adds to the residual stream. */
  readonly dropout?: number;
}

/** A pre-norm transformer block: `x + attention(norm(x))`, then `x + feedForward(norm(x))`. */
export function transformerBlock(options: TransformerBlockOptions): Module {
  const { attention, feedForward, norm, dropout = 0 } = options;
  checkRate(dropout);
  const name = feedForward.experts ? 'moe' : 'mlp';
  return {
    kind: 'transformerBlock',
    children: { norm1: norm(), attn: attention, norm2: norm(), [name]: feedForward },
    forward(_params, [x], ctx) {
      const attended = ctx.run('attn', ctx.run('norm1', x));
      const middle = tf.add(x, applyDropout(attended, dropout, ctx));
      const fed = ctx.run(name, ctx.run('norm2', middle));
      return tf.add(middle, applyDropout(fed, dropout, ctx));
    },
  };
}
