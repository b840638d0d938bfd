import * as z from 'zod';
import type { FederatedStrategy } from '../strategy.ts';
import { averaging } from './fedavg.ts';

const config = z.object({
  mu: z.number().min(0).default(1).describe('weight of the contrastive term'),
  temperature: z.number().positive().default(0.5).describe('of the contrastive term'),
});

/**
 * Averaging with a contrastive term near the data: Li, He and Song, Model-Contrastive Federated Learning (MOON, 2021), algorithm 1.
 * Representations are what goes into the last layer; a client keeps the parameters of its last fit.
 */
export const moon: FederatedStrategy<typeof config> = {
  name: 'moon',
  config,
  objective: ({ mu, temperature }) => ({ name: 'contrastive', config: { mu, temperature } }),
  server: () => averaging(),
};
