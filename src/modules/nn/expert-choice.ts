import * as tf from '@tensorflow/tfjs-core';
import * as init from '../init.ts';
import type { Module } from '../module.ts';
import { withoutGradient } from '../no-gradient.ts';
import { gatherRows, withGradient } from './dispatch.ts';
import { linear } from './linear.ts';

/** Options of `expertChoice`. */
export interface ExpertChoiceOptions {
  readonly dim: number;
  /** Modules from `[rows, dim]` to `[rows, dim]`, all alike. */
  readonly experts: readonly Module[];
  /** Mean number of experts of a token. Default 2. */
  readonly capacityFactor?: number;
  /** A module that every token takes besides, at child `shared`. */
  readonly shared?: Module;
}

/** What a causal model with expert-choice routing must be told. */
export const EXPERT_CHOICE_WARNING =
  'expert-choice routing picks the best tokens of a whole sequence, so in a causal language model it sees future tokens: ' +
  'training losses are too good, and generation does not match training; use token-choice routing there';

/**
 * Mixture of experts in which each expert takes its `capacityFactor * T / E` best tokens (Zhou et al. 2022):
 * `[..., dim]` → the same. The load is even by construction; a token may get no expert or all of them. Metrics:
 * `unserved`, the share of tokens without an expert. Keeps `T * E` rows in memory when it adds results up.
 * @throws RangeError on a capacity factor that is not positive.
 */
export function expertChoice(options: ExpertChoiceOptions): Module {
  const { dim, experts, capacityFactor = 2, shared } = options;
  if (!(capacityFactor > 0))
    throw new RangeError(`expert choice: capacityFactor is ${capacityFactor}, but must be above 0`);
  const count = experts.length;
  return {
    kind: 'moe',
    children: {
      router: linear(dim, count, { bias: false, init: init.normal(0.02) }),
      ...(shared ? { shared } : {}),
    },
    experts,
    forward(_params, [x], ctx) {
      if (!x || x.shape[x.rank - 1] !== dim) throw new Error(`expected [..., ${dim}], not [${x?.shape}]`);
      const tokens = tf.reshape(x, [-1, dim]);
      const size = tokens.shape[0] as number;
      const capacity = Math.min(size, Math.max(1, Math.round((size * capacityFactor) / count)));
      const scores = tf.softmax(ctx.run('router', tokens));
      const plan = withoutGradient(() => chooseTokens(scores, capacity));
      ctx.metric(
        'unserved',
        withoutGradient(() => tf.mean(tf.cast(tf.equal(tf.max(plan.served, 1), 0), 'float32'))),
      );

      const rows = gatherRows(tokens, plan.token, [plan.slots], (dy, [slots]) =>
        tf.sum(tf.reshape(bySlot(dy, slots as tf.Tensor1D), [size, count, dim]), 1),
      );
      const results = ctx.experts(rows, tf.fill([count], capacity, 'int32'));
      const back = withGradient(
        results,
        (r) => bySlot(r, plan.slots),
        [plan.cell],
        (dy, [cell]) => tf.gather(dy, cell as tf.Tensor1D),
      );
      const gates = tf.mul(scores, plan.served);
      const mixed = tf.sum(tf.mul(tf.reshape(back, [size, count, dim]), tf.expandDims(gates, 2)), 1);
      const output = shared ? tf.add(mixed, ctx.run('shared', tokens)) : mixed;
      return tf.reshape(output, x.shape);
    },
  };
}

/** Rows by slot; slot 0 stands for none and gives zeros. So adding up rows is a gather, in a fixed order. */
function bySlot(rows: tf.Tensor, slots: tf.Tensor1D): tf.Tensor {
  return tf.gather(
    tf.pad(rows as tf.Tensor2D, [
      [1, 0],
      [0, 0],
    ]),
    slots,
  );
}

/**
 * The tokens of each expert: `token` int32 `[E * C]` of each row; `cell` its place `token * E + expert`; `slots` int32
 * `[T * E]`, the row of each cell plus 1, or 0; `served` float32 `[T, E]`, 1 where there is one.
 */
function chooseTokens(scores: tf.Tensor, capacity: number) {
  const [size, experts] = scores.shape as [number, number];
  const rows = experts * capacity;
  const { indices } = tf.topk(tf.transpose(scores), capacity, true);
  const token = tf.reshape(indices, [rows]) as tf.Tensor1D;
  const expert = tf.tensor1d(
    Int32Array.from({ length: rows }, (_, r) => Math.floor(r / capacity)),
    'int32',
  );
  const cell = tf.add(tf.mul(token, tf.scalar(experts, 'int32')), expert) as tf.Tensor1D;
  const numbers = tf.tensor1d(
    Int32Array.from({ length: rows }, (_, r) => r + 1),
    'int32',
  );
  const slots = tf.scatterND(tf.reshape(cell, [rows, 1]), numbers, [size * experts]) as tf.Tensor1D;
  const served = tf.reshape(tf.cast(tf.greater(slots, tf.scalar(0, 'int32')), 'float32'), [size, experts]);
  return { token, cell, slots, served };
}
