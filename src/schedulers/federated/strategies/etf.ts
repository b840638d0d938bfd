import * as z from 'zod';
import { distinct } from '../../../data/index.ts';
import { createRng } from '../../../tensor/index.ts';
import { TUNE } from '../../local/index.ts';
import { fineTune } from '../fine-tune.ts';
import type { FederatedStrategy } from '../strategy.ts';
import { averaging } from './fedavg.ts';

const config = z.object({
  gamma: z
    .number()
    .min(0)
    .default(1)
    .describe('power of the class frequencies in the balanced loss; 0 for the plain loss'),
  tuned_clients: z
    .int()
    .min(0)
    .default(0)
    .describe('clients that make the model their own after the last round, and are measured for summary.json'),
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
  finish: async ({ tuned_clients: count }, { pool, params, state, partition, measured, epochs, rounds, seed }) => {
    const none: Readonly<Record<string, number>> = {};
    if (count === 0) return none;
    const chosen = distinct(
      createRng(seed).fork('tuned clients'),
      Math.min(count, partition.clients),
      partition.clients,
    );
    const tuned = await fineTune({
      pool,
      params,
      state,
      tensors: { [TUNE]: Float32Array.of(1) },
      train: partition,
      measured,
      clients: [...chosen].sort((a, b) => a - b),
      epochs,
      round: rounds,
    });
    if (tuned.length === 0) return none;
    const mean = (of: 'before' | 'after') =>
      tuned.reduce((sum, each) => sum + (each[of].correct ?? 0) / each[of].examples, 0) / tuned.length;
    return { tuned_clients: tuned.length, untuned_accuracy_mean: mean('before'), tuned_accuracy_mean: mean('after') };
  },
};
