import * as tf from '@tensorflow/tfjs-core';
import { type GroupOf, groupKeyOf, type Optimizer } from './optimizer.ts';
import type { OptimConfigOf } from './schema.ts';
import { decayed, scaled } from './sgd.ts';

/**
 * Lion (Chen et al. 2023, "Symbolic discovery of optimization algorithms"): w = w (1 - lr decay) - lr sign(b1 m +
 * (1 - b1) g), then m = b2 m + (1 - b2) g.
 */
export function lion({ betas }: OptimConfigOf<'lion'>, groupOf: GroupOf): Optimizer {
  return {
    name: 'lion',
    slots: () => ['momentum'],
    scalars: (lr) => [lr],
    groupKey: (param) => groupKeyOf(groupOf(param)),
    update(param, grad, slots, scalars, info) {
      const [momentum] = slots as readonly [tf.Tensor];
      const group = groupOf(info);
      const rate = scaled(scalars[0] as tf.Tensor, group.lr);
      const direction = tf.sign(tf.add(tf.mul(momentum, betas[0]), tf.mul(grad, 1 - betas[0])));
      const next = tf.add(tf.mul(momentum, betas[1]), tf.mul(grad, 1 - betas[1]));
      return [tf.sub(decayed(param, rate, group.weightDecay), tf.mul(direction, rate)), next];
    },
  };
}
