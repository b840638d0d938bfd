import * as z from 'zod';
import { tf } from '../../engine/index.ts';
import type { LocalObjective } from './objective.ts';
import { registerObjective } from './registry.ts';

/**
 * Besides the common model each client trains one of its own, on the loss plus lambda / 2 times the squared distance to the
 * parameters that came from the server (Li, Hu, Beirami and Smith, Ditto, 2021, algorithm 1). It begins as the server's when
 * the client first takes part.
 * @param epochs passes over the client's examples for its own model; null for as many as for the common one
 */
export function ownModel(lambda: number, epochs: number | null): LocalObjective {
  return {
    name: 'own-model',
    tensors: [
      { name: 'anchor', shape: 'param', scope: 'start' },
      { name: 'own', shape: 'param', scope: 'client', initial: 'start' },
    ],
    passes: [
      { name: '' },
      {
        name: 'own',
        into: 'own',
        ...(epochs === null ? {} : { epochs }),
        penalty: (param, { anchor }) => tf.mul(tf.sum(tf.square(tf.sub(param, anchor as tf.Tensor))), lambda / 2),
      },
    ],
    own: (_, { own }) => own as tf.Tensor,
  };
}

registerObjective({
  name: 'own-model',
  config: z.object({ lambda: z.number().min(0), epochs: z.int().min(1).nullable() }),
  make: ({ lambda, epochs }) => ownModel(lambda, epochs),
});
