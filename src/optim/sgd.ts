import * as tf from '@tensorflow/tfjs-core';
import { powInteger } from '../tensor/index.ts';
import { type GroupOf, groupKeyOf, type Optimizer } from './optimizer.ts';
import type { OptimConfigOf } from './schema.ts';

/**
 * Stochastic gradient descent with momentum, in PyTorch's form: v = momentum v + g, w = w - lr v, or with Nesterov
 * w = w - lr (g + momentum v). Weight decay is added to the gradient. Without momentum there is no state.
 */
export function sgd({ momentum, nesterov }: OptimConfigOf<'sgd'>, groupOf: GroupOf): Optimizer {
  return {
    name: 'sgd',
    slots: () => (momentum === 0 ? [] : ['momentum']),
    scalars: (lr) => [lr],
    groupKey: (param) => groupKeyOf(groupOf(param)),
    pathLength(steps) {
      // The velocity of the k-th step is g (1 - momentum^k) / (1 - momentum); with Nesterov a step goes as far as the next would without.
      const first = nesterov ? momentum * momentum : momentum;
      return (steps - (first * (1 - powInteger(momentum, steps))) / (1 - momentum)) / (1 - momentum);
    },
    update(param, grad, [velocity], [lr], info) {
      const group = groupOf(info);
      const rate = scaled(lr as tf.Tensor, group.lr);
      const g = group.weightDecay === 0 ? grad : tf.add(grad, tf.mul(param, group.weightDecay));
      if (velocity === undefined) return [tf.sub(param, tf.mul(g, rate))];
      const next = tf.add(tf.mul(velocity, momentum), g);
      const direction = nesterov ? tf.add(g, tf.mul(next, momentum)) : next;
      return [tf.sub(param, tf.mul(direction, rate)), next];
    },
  };
}

/** A scalar times a constant factor; the scalar itself if the factor is 1. */
export function scaled(value: tf.Tensor, factor: number): tf.Tensor {
  return factor === 1 ? value : tf.mul(value, factor);
}

/** Decoupled weight decay: w (1 - lr decay); w itself if there is none. */
export function decayed(param: tf.Tensor, rate: tf.Tensor, weightDecay: number): tf.Tensor {
  return weightDecay === 0 ? param : tf.mul(param, tf.sub(1, tf.mul(rate, weightDecay)));
}
