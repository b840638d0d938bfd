import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { Context, StateSpec } from '../module.ts';
import { withoutGradient } from '../no-gradient.ts';

/** How a router turns logits into choices, and what keeps its experts evenly used. */
export interface RouterOptions {
  /** Experts of each token. */
  readonly topK: number;
  /** How logits become scores. Default `softmax`. */
  readonly scores?: 'softmax' | 'sigmoid';
  /** Whether the chosen scores of a token are divided by their sum. Default true for `topK` > 1. */
  readonly normalise?: boolean;
  /** Factor of the gates after that (DeepSeek-V3 2024). Default 1. */
  readonly routeScale?: number;
  /** Coefficient of the load-balancing loss. Default 0. */
  readonly balanceLoss?: number;
  /** Coefficient of the router z-loss. Default 0. */
  readonly zLoss?: number;
  /** Step of the bias that evens the load without a loss; 0 for none. Default 0. */
  readonly biasRate?: number;
}

/** The choices of a microbatch of `T` tokens. */
export interface Routing {
  /** float32 `[T, E]`. */
  readonly scores: Tensor;
  /** One-hot float32 `[T, K, E]`: the experts of each token, best first. No gradient. */
  readonly chosen: Tensor;
  /** Weights of a token's experts, float32 `[T, K]`. */
  readonly gates: Tensor;
  /** How many assignments ask for each expert, float32 `[E]`. No gradient. */
  readonly demand: Tensor;
}

/**
 * Chooses `topK` experts for each token from logits `[T, E]`. `bias` `[E]` shifts the choice but not the gates
 * (DeepSeek-V3 2024, eq. 16). Of equal scores the expert of the lower number wins, so a choice never depends on chance.
 */
export function route(logits: Tensor, bias: Tensor | null, options: RouterOptions): Routing {
  const { topK, scores: kind = 'softmax', normalise = topK > 1, routeScale = 1 } = options;
  const [tokens, experts] = logits.shape as [number, number];
  const scores = kind === 'softmax' ? tf.softmax(logits) : tf.sigmoid(logits);
  const chosen = withoutGradient(() => {
    // With one expert there is no choice (and tfjs refuses a one-hot of depth 1).
    if (experts === 1) return tf.ones([tokens, 1, 1]);
    const { indices } = tf.topk(bias ? tf.add(scores, bias) : scores, topK, true);
    return tf.reshape(tf.oneHot(tf.reshape(indices, [-1]), experts, 1, 0, 'float32'), [tokens, topK, experts]);
  });
  const demand = withoutGradient(() => tf.sum(chosen, [0, 1]));
  const picked = tf.sum(tf.mul(tf.reshape(scores, [tokens, 1, experts]), chosen), 2);
  const normalised = normalise ? tf.div(picked, tf.add(tf.sum(picked, 1, true), 1e-20)) : picked;
  return { scores, chosen, gates: routeScale === 1 ? normalised : tf.mul(normalised, routeScale), demand };
}

/**
 * Load-balancing loss E · Σ f_e · P_e (Switch Transformer 2021, eq. 4-6; GShard 2020): f_e is the share of assignments
 * that ask for expert e, P_e the mean of its scores (normalised to sum to 1 over experts). 1 when even.
 */
export function balanceLoss(routing: Routing, scores: 'softmax' | 'sigmoid'): Tensor {
  const [tokens, topK, experts] = routing.chosen.shape as [number, number, number];
  const probabilities =
    scores === 'softmax' ? routing.scores : tf.div(routing.scores, tf.add(tf.sum(routing.scores, 1, true), 1e-20));
  const weighted = tf.mul(routing.demand, tf.mean(probabilities, 0));
  return tf.mul(tf.sum(weighted), experts / (tokens * topK));
}

/** Router z-loss: the mean of the squared log-sum-exp of each token's logits (ST-MoE 2022, eq. 5). */
export function routerZLoss(logits: Tensor): Tensor {
  return tf.mean(tf.square(tf.logSumExp(logits, 1)));
}

/**
 * The bias of auxiliary-loss-free balancing (Wang et al. 2024; DeepSeek-V3 2024): after each step it rises by `rate` for
 * experts below the mean load of the step's whole batch and falls for those above. The contribution is the demand.
 */
export function routerBias(experts: number, rate: number): StateSpec {
  return {
    shape: [experts],
    init: 0,
    update: (bias, demand) => tf.add(bias, tf.mul(tf.sign(tf.sub(tf.mean(demand), demand)), rate)),
  };
}

/** Adds the losses that `options` ask for and reports `load` `[E]` (shares of the assignments) and `balance` (mean over maximum load). */
export function reportRouting(routing: Routing, logits: Tensor, options: RouterOptions, ctx: Context): void {
  const { scores = 'softmax', balanceLoss: balance = 0, zLoss = 0, biasRate = 0 } = options;
  const [tokens, topK] = routing.chosen.shape as [number, number, number];
  if (ctx.training) {
    if (balance > 0) ctx.addLoss('balanceLoss', tf.mul(balanceLoss(routing, scores), balance));
    if (zLoss > 0) ctx.addLoss('zLoss', tf.mul(routerZLoss(logits), zLoss));
    if (biasRate > 0) ctx.contribute('routerBias', routing.demand);
  }
  withoutGradient(() => {
    ctx.metric('load', tf.mul(routing.demand, 1 / (tokens * topK)));
    ctx.metric('balance', tf.div(tf.mean(routing.demand), tf.max(routing.demand)));
  });
}
