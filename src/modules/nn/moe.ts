import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import * as init from '../init.ts';
import type { Module, StateSpec } from '../module.ts';
import { withoutGradient } from '../no-gradient.ts';
import type { DropPolicy } from './dispatch.ts';
import { capacityOf, combineRows, dispatchRows, keepWithinCapacity, planDispatch } from './dispatch.ts';
import { linear } from './linear.ts';
import type { RouterOptions } from './router.ts';
import { reportRouting, route, routerBias } from './router.ts';

/** Options of `moe`. */
export interface MoeOptions extends RouterOptions {
  readonly dim: number;
  /** Modules from `[rows, dim]` to `[rows, dim]`, all alike. */
  readonly experts: readonly Module[];
  /** A module that every token takes besides its experts, at child `shared` (DeepSeekMoE 2024). */
  readonly shared?: Module;
  /**
   * Rows that one expert takes at most in a microbatch, as a multiple of an even share. Null, the default, is dropless:
   * every assignment is served.
   */
  readonly capacityFactor?: number | null;
  /** What is dropped when an expert is full. Default `position`. */
  readonly dropPolicy?: DropPolicy;
  /**
   * Keeps count of the rows that each expert was asked for, in the state `routed` `[E]`, from the start of training: what
   * federated averaging of experts weighs by. Default false.
   */
  readonly count?: boolean;
}

/**
 * Mixture of experts with token-choice routing (Shazeer et al. 2017; Switch Transformer 2021): `[..., dim]` → the same.
 * A linear router (child `router`) gives each token `topK` experts; a token's output is the gated sum of theirs, plus
 * the shared one's. A dropped assignment adds nothing. Metrics: `load` `[E]`, `balance`, `dropped`, and the losses.
 * @throws RangeError on options that cannot work.
 */
export function moe(options: MoeOptions): Module {
  const { dim, experts, topK, shared, capacityFactor = null, dropPolicy = 'position' } = options;
  const { biasRate = 0, count = false } = options;
  checkOptions(options);
  return {
    kind: 'moe',
    children: {
      router: linear(dim, experts.length, { bias: false, init: init.normal(0.02) }),
      ...(shared ? { shared } : {}),
    },
    state: {
      ...(biasRate > 0 ? { routerBias: routerBias(experts.length, biasRate) } : {}),
      ...(count ? { routed: routedRows(experts.length) } : {}),
    },
    experts,
    forward(_params, [x], ctx) {
      if (!x || x.shape[x.rank - 1] !== dim) throw new Error(`expected [..., ${dim}], not [${x?.shape}]`);
      const tokens = x.rank === 2 ? x : tf.reshape(x, [-1, dim]);
      const logits = ctx.run('router', tokens);
      const routing = route(logits, biasRate > 0 ? ctx.state.routerBias : null, options);
      reportRouting(routing, logits, options, ctx);
      if (count) ctx.contribute('routed', routing.demand);

      const assignments = (tokens.shape[0] as number) * topK;
      let kept: Tensor | null = null;
      if (capacityFactor !== null) {
        const scores = withoutGradient(() => tf.sum(tf.mul(tf.expandDims(routing.scores, 1), routing.chosen), 2));
        kept = keepWithinCapacity(
          routing.chosen,
          scores,
          capacityOf(capacityFactor, assignments, experts.length),
          dropPolicy,
        );
        const share = kept;
        ctx.metric(
          'dropped',
          withoutGradient(() => tf.sub(1, tf.mean(share))),
        );
      }
      const plan = planDispatch(routing.chosen, kept);
      const results = ctx.experts(dispatchRows(tokens, plan), plan.counts);
      const mixed = combineRows(results, routing.gates, plan);
      const output = shared ? tf.add(mixed, ctx.run('shared', tokens)) : mixed;
      return x.rank === 2 ? output : tf.reshape(output, x.shape);
    },
  };
}

/** Rows of each expert so far. Exact up to 2^24. */
function routedRows(experts: number): StateSpec {
  return { shape: [experts], init: 0, update: (rows, demand) => tf.add(rows, demand) };
}

function checkOptions(options: MoeOptions): void {
  const { experts, topK, normalise, capacityFactor = null } = options;
  if (!(Number.isInteger(topK) && topK >= 1 && topK <= experts.length))
    throw new RangeError(
      `moe: topK is ${topK}, but must be a whole number from 1 to the number of experts, ${experts.length}`,
    );
  if (topK === 1 && normalise)
    throw new RangeError(
      'moe: with topK 1 a normalised gate is always 1 and the router gets no gradient; set normalise: false',
    );
  if (capacityFactor !== null && !(capacityFactor > 0))
    throw new RangeError(`moe: capacityFactor is ${capacityFactor}, but must be above 0, or null for dropless`);
}
