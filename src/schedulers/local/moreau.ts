import * as z from 'zod';
import { tf } from '../../engine/index.ts';
import type { LocalObjective } from './objective.ts';
import { registerObjective } from './registry.ts';

/** Settings of `moreauEnvelope`. */
export interface MoreauOptions {
  /** Weight of the distance between a client's model and the common one. */
  readonly lambda: number;
  /** Gradient steps on each batch towards the client's model. */
  readonly steps: number;
  /** Their learning rate. */
  readonly lr: number;
}

/**
 * Trains on the Moreau envelope of the loss: for each batch the client's own model theta is found, nearly, as the minimum of
 * loss(theta) + lambda / 2 |theta - w|^2 by a few gradient steps from w, and lambda (w - theta) is the gradient by w (Dinh, Tran and
 * Nguyen, pFedMe, 2020, algorithm 1). The last theta is what the client keeps.
 */
export function moreauEnvelope({ lambda, steps, lr }: MoreauOptions): LocalObjective {
  return {
    name: 'moreau-envelope',
    tensors: [{ name: 'own', shape: 'param', scope: 'client', initial: 'start', moves: true }],
    step: ({ params, gradients, gradientsAt }) => {
      let own = params;
      let slope = gradients;
      for (let step = 0; step < steps; step++) {
        if (step > 0) slope = gradientsAt(own);
        const moved = new Map<string, tf.Tensor>();
        for (const [path, theta] of own) {
          const pull = tf.mul(tf.sub(theta, params.get(path) as tf.Tensor), lambda);
          moved.set(path, tf.sub(theta, tf.mul(tf.add(slope.get(path) as tf.Tensor, pull), lr)));
        }
        own = moved;
      }
      const envelope = new Map(
        [...params].map(([path, param]) => [path, tf.mul(tf.sub(param, own.get(path) as tf.Tensor), lambda)]),
      );
      return { gradients: envelope, tensors: { own } };
    },
    own: (_, { own }) => own as tf.Tensor,
  };
}

registerObjective({
  name: 'moreau-envelope',
  config: z.object({ lambda: z.number().positive(), steps: z.int().min(1), lr: z.number().positive() }),
  make: moreauEnvelope,
});
