import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { Context, Initializer, Module } from '../module.ts';
import { applyDropout, checkRate } from './dropout.ts';
import { linear } from './linear.ts';
import { rotaryTables, rotate } from './rotary.ts';

/** Options of `attention`. */
export interface AttentionOptions {
  readonly dim: number;
  readonly heads: number;
  /** Heads of keys and values, a divisor of `heads` (Ainslie et al. 2023). Default `heads`. */
  readonly kvHeads?: number;
  /** Each position sees itself and earlier ones only. Default true. */
  readonly causal?: boolean;
  /** Turns queries and keys by their positions; `base` is the longest period's, default 10000. */
  readonly rotary?: boolean | { readonly base: number };
  /** Default false. */
  readonly bias?: boolean;
  /** Dropout of the attention weights. */
  readonly dropout?: number;
  readonly init?: Initializer;
  readonly outInit?: Initializer;
}

/**
 * Multi-head self-attention (Vaswani et al. 2017) with grouped queries: `[batch, time, dim]` → the same. Children `q`
 * `[dim, dim]`, `k` and `v` `[dim, kvHeads * dim / heads]`, `o` `[dim, dim]`.
 * @throws RangeError if heads do not divide.
 */
export function attention(options: AttentionOptions): Module {
  const {
    dim,
    heads,
    kvHeads = heads,
    causal = true,
    rotary = false,
    bias = false,
    dropout = 0,
    init,
    outInit,
  } = options;
  if (dim % heads !== 0) throw new RangeError(`attention: dim ${dim} is not a multiple of heads ${heads}`);
  if (heads % kvHeads !== 0) throw new RangeError(`attention: heads ${heads} is not a multiple of kvHeads ${kvHeads}`);
  const width = dim / heads;
  if (rotary && width % 2 !== 0)
    throw new RangeError(`attention: rotary positions need an even head width, not ${width}`);
  checkRate(dropout);
  const base = typeof rotary === 'object' ? rotary.base : 10_000;
  const groups = heads / kvHeads;
  const scale = 1 / Math.sqrt(width);

  return {
    kind: 'attention',
    children: {
      q: linear(dim, dim, { bias, init }),
      k: linear(dim, kvHeads * width, { bias, init }),
      v: linear(dim, kvHeads * width, { bias, init }),
      o: linear(dim, dim, { bias, init: outInit ?? init }),
    },
    forward(_params, [x], ctx) {
      if (x?.rank !== 3 || x.shape[2] !== dim) throw new Error(`expected [batch, time, ${dim}], not [${x?.shape}]`);
      const [batch, time] = x.shape as [number, number, number];
      const rows = tf.reshape(x, [batch * time, dim]);
      // [batch, kvHeads, group * time, width]: the queries that share a key head are stacked, so keys are never repeated.
      const split = (name: string, perHead: number) =>
        perHead === 1
          ? tf.transpose(tf.reshape(ctx.run(name, rows), [batch, time, kvHeads, width]), [0, 2, 1, 3])
          : tf.transpose(tf.reshape(ctx.run(name, rows), [batch, time, kvHeads, perHead, width]), [0, 2, 3, 1, 4]);
      let q = split('q', groups);
      let k = split('k', 1);
      const v = split('v', 1);
      // The scale goes where the fewest values are: into the rotary tables, else onto the queries.
      if (rotary) {
        q = rotate(q, rotaryTables(time, width, base, scale));
        k = rotate(k, rotaryTables(time, width, base, 1));
      } else q = tf.mul(q, scale);
      if (groups > 1) q = tf.reshape(q, [batch, kvHeads, groups * time, width]);
      const scores = tf.matMul(q, k, false, true);
      const weights = attend(scores, [batch, heads, time], causal, dropout, ctx);
      const mixed = tf.matMul(groups > 1 ? tf.reshape(weights, [batch, kvHeads, groups * time, time]) : weights, v);
      const byTime = tf.transpose(tf.reshape(mixed, [batch, heads, time, width]), [0, 2, 1, 3]);
      return tf.reshape(ctx.run('o', tf.reshape(byTime, [batch * time, dim])), [batch, time, dim]);
    },
  };
}

function attend(
  scores: Tensor,
  [batch, heads, time]: readonly [number, number, number],
  causal: boolean,
  dropout: number,
  ctx: Context,
): Tensor {
  const shaped = tf.reshape(scores, [batch, heads, time, time]);
  const weights = tf.softmax(causal ? tf.add(shaped, causalMask(time)) : shaped);
  return applyDropout(weights, dropout, ctx);
}

/** `[time, time]`: 0 where column ≤ row, else so low that its softmax is exactly 0. */
function causalMask(time: number): Tensor {
  const mask = new Float32Array(time * time);
  for (let row = 0; row < time; row++) mask.fill(-1e9, row * time + row + 1, (row + 1) * time);
  return tf.tensor2d(mask, [time, time]);
}
