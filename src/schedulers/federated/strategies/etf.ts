import { z } from 'zod';
import type { FederatedStrategy } from '../strategy.ts';
import { averaging } from './fedavg.ts';

const config = z.object({
  gamma: z
    .number()
    .min(0)
    .default(1)
    .describe('power of the class frequencies in the balanced loss; 0 for the plain loss'),
  tuning_turns: z
    .int()
    .min(0)
    .default(2)
    .describe('turns of fine-tuning, of the directions and of the projection, where a client makes the model its own'),
  tuning_epochs: z.int().min(1).default(1).describe("passes over a client's examples in each half of a turn"),
});

/**
 * Averaging with a classifier that is fixed to a simplex equiangular tight frame, and a loss that is balanced by each client's
 * class frequencies: Li, Shang, He, Lin and Wu, No Fear of Classifier Biases: Neural Collapse Inspired Federated Learning with
 * Synthetic and Fixed Classifier (FedETF, 2023). For a model with `head: { kind: etf }`.
 */
export const fedetf: FederatedStrategy<typeof config> = {
  name: 'fedetf',
  config,
  objective: ({ gamma, tuning_turns: turns, tuning_epochs: epochs }) => ({
    name: 'etf',
    config: { gamma, turns, epochs },
  }),
  unsuited: (_, { params }) =>
    params.places.some(({ path }) => path.endsWith('etf.frame'))
      ? null
      : 'it needs a classifier with fixed directions; set model.args.head: { kind: etf }',
  server: () => averaging(),
};
