import * as z from 'zod';
import { tf } from '../../engine/index.ts';
import type { ModelForward } from './model-function.ts';
import type { LocalObjective } from './objective.ts';
import { registerObjective } from './registry.ts';

/** Norms below which a representation counts as zero: as PyTorch's cosine similarity has it, squared. */
const EPSILON = 1e-16;

/**
 * A contrastive term on representations (what comes out of the last layer but one): of each example, the current one is
 * drawn to the one that the server's parameters give, and away from the one that the client's last fit gave:
 * -log(exp(sim(z, z_server) / t) / (exp(sim(z, z_server) / t) + exp(sim(z, z_before) / t))), times mu (Li, He and Song,
 * Model-Contrastive Federated Learning, 2021, equations 3 and 5). Before a client's first fit both are the server's.
 */
export function contrastive(mu: number, temperature: number): LocalObjective {
  return {
    name: 'contrastive',
    tensors: [
      { name: 'server', shape: 'param', scope: 'start' },
      { name: 'before', shape: 'param', scope: 'client', initial: 'start' },
    ],
    loss: ({ forward, targets, apply, tensors, modelLoss }) => {
      const now = representation(forward);
      const far = similarity(now, representation(apply(tensors('before'))));
      const near = similarity(now, representation(apply(tensors('server'))));
      const term = tf.mean(tf.softplus(tf.div(tf.sub(far, near), temperature)));
      return tf.add(modelLoss(forward.outputs, targets), tf.mul(term, mu));
    },
    after: ({ param }) => ({ before: param }),
  };
}

function representation({ activations }: ModelForward): tf.Tensor {
  const found = activations.at(-2);
  if (!found)
    throw new Error(
      'the contrastive objective compares what goes into the last layer, and the model has only one layer',
    );
  return tf.reshape(found, [found.shape[0] as number, -1]);
}

/** Cosine of each row of one with the same row of the other. */
function similarity(a: tf.Tensor, b: tf.Tensor): tf.Tensor {
  const dot = (x: tf.Tensor, y: tf.Tensor) => tf.sum(tf.mul(x, y), 1);
  return tf.div(dot(a, b), tf.sqrt(tf.maximum(tf.mul(dot(a, a), dot(b, b)), EPSILON)));
}

registerObjective({
  name: 'contrastive',
  config: z.object({ mu: z.number().min(0), temperature: z.number().positive() }),
  make: ({ mu, temperature }) => contrastive(mu, temperature),
});
