import * as z from 'zod';
import { tf } from '../../engine/index.ts';
import { classesOf } from './label-means.ts';
import type { LocalObjective } from './objective.ts';
import { registerObjective } from './registry.ts';

/** Settings of `consensus`. */
export interface ConsensusOptions {
  /** Public examples. */
  readonly examples: number;
  /** Passes over them with their labels before a client's first training, and with the consensus in each round after. */
  readonly transferEpochs: number;
  readonly digestEpochs: number;
}

/**
 * Every client has a model of its own, which may learn from all others by what they say of public examples: first from the
 * labels of those, in later rounds it is drawn to the mean of the clients' outputs (mean absolute difference); then it trains on its
 * own examples, and sends its outputs for the public ones (Li and Wang, FedMD, 2019, algorithm 1: transfer learning, digest,
 * revisit, communicate). The `round` tensor `consensus` `[examples, classes]` is absent before anybody has sent anything.
 */
export function consensus({ examples, transferEpochs, digestEpochs }: ConsensusOptions): LocalObjective {
  return {
    name: 'consensus',
    tensors: [{ name: 'consensus', shape: (info) => [examples, classesOf(info)], scope: 'round', optional: true }],
    passes: [
      ...(transferEpochs > 0
        ? ([{ name: 'transfer', over: 'public', epochs: transferEpochs, when: 'first' }] as const)
        : []),
      {
        name: 'digest',
        over: 'public',
        epochs: digestEpochs,
        when: { given: 'consensus' },
        loss: ({ forward, tensor, positions }) => {
          const wanted = tf.gather(tensor('consensus'), positions as tf.Tensor1D);
          return tf.mean(tf.abs(tf.sub(forward.outputs[0] as tf.Tensor, wanted)));
        },
      },
      { name: '' },
    ],
    readings: [{ name: 'outputs', at: 'end', what: 'outputs' }],
    personal: () => true,
  };
}

registerObjective({
  name: 'consensus',
  config: z.object({
    examples: z.int().min(1),
    transferEpochs: z.int().min(0),
    digestEpochs: z.int().min(1),
  }),
  make: consensus,
});
