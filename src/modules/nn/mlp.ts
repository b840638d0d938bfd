import * as tf from '@tensorflow/tfjs-core';
import { silu } from '../../engine/index.ts';
import type { Initializer, Module } from '../module.ts';
import type { ActivationName } from './activation.ts';
import { activations } from './activation.ts';
import { linear } from './linear.ts';

/** Options of `mlp` and `swiglu`. */
export interface FeedForwardOptions {
  /** Default true for `mlp`, false for `swiglu`. */
  readonly bias?: boolean;
  readonly init?: Initializer;
  /** Initialiser of the projection back to `dim`, which residual networks scale down with depth. */
  readonly outInit?: Initializer;
}

/** Two linear maps with a non-linearity between: `[..., dim]` → `[..., hidden]` → `[..., dim]`. */
export function mlp(
  dim: number,
  hidden: number,
  options: FeedForwardOptions & { readonly activation?: ActivationName } = {},
): Module {
  const { bias = true, activation = 'gelu', init, outInit } = options;
  const apply = activations[activation];
  return {
    kind: 'mlp',
    children: {
      up: linear(dim, hidden, { bias, init }),
      down: linear(hidden, dim, { bias, init: outInit ?? init }),
    },
    forward: (_params, [x], ctx) => ctx.run('down', apply(ctx.run('up', x))),
  };
}

/** `(silu(x · gate) * (x · up)) · down` (Shazeer 2020): `[..., dim]` → the same. */
export function swiglu(dim: number, hidden: number, options: FeedForwardOptions = {}): Module {
  const { bias = false, init, outInit } = options;
  return {
    kind: 'swiglu',
    children: {
      gate: linear(dim, hidden, { bias, init }),
      up: linear(dim, hidden, { bias, init }),
      down: linear(hidden, dim, { bias, init: outInit ?? init }),
    },
    forward(_params, [x], ctx) {
      const gated = tf.mul(silu(ctx.run('gate', x)), ctx.run('up', x));
      return ctx.run('down', gated);
    },
  };
}
