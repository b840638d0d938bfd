import * as z from 'zod';
import { addMean, type FederatedServer, type FederatedStrategy } from '../strategy.ts';
import { averaging } from './fedavg.ts';

const repConfig = z.object({
  personal: z
    .array(z.string().min(1))
    .min(1)
    .default(['head.*'])
    .describe('paths of parameters that stay with the client; * stands for any characters'),
  head_epochs: z
    .int()
    .min(1)
    .default(5)
    .describe('passes over the examples that train those parameters, before local_epochs that train the others'),
});

/**
 * A common representation under heads of the clients' own, which are trained first: Collins, Hassani, Mokhtari and Shakkottai,
 * Exploiting Shared Representations for Personalized Federated Learning (FedRep, 2021), algorithm 1. Representations are averaged
 * with equal weights, as there.
 */
export const fedrep: FederatedStrategy<typeof repConfig> = {
  name: 'fedrep',
  config: repConfig,
  objective: ({ personal, head_epochs }) => ({
    name: 'alternating',
    config: { paths: personal, epochs: head_epochs },
  }),
  server: () => equally(),
};

const dittoConfig = z.object({
  lambda: z.number().min(0).default(0.1).describe("weight of the distance of a client's own model to the common one"),
  personal_epochs: z
    .int()
    .min(1)
    .nullable()
    .default(null)
    .describe("passes that train a client's own model in a round; null for local_epochs"),
});

/**
 * Averaging, besides which every client trains a model of its own near to the common one: Li, Hu, Beirami and Smith, Ditto: Fair
 * and Robust Federated Learning Through Personalization (2021), algorithm 1.
 */
export const ditto: FederatedStrategy<typeof dittoConfig> = {
  name: 'ditto',
  config: dittoConfig,
  objective: ({ lambda, personal_epochs }) => ({ name: 'own-model', config: { lambda, epochs: personal_epochs } }),
  server: () => averaging(),
};

const meConfig = z.object({
  lambda: z
    .number()
    .positive()
    .default(15)
    .describe(
      "weight of the distance of a client's own model to the common one; lambda times optim.lr should be below 1",
    ),
  personal_steps: z.int().min(1).default(5).describe("gradient steps on each batch towards the client's own model"),
  personal_lr: z.number().positive().default(0.05).describe('their learning rate; lambda times it should be below 1'),
  beta: z
    .number()
    .positive()
    .default(1)
    .describe("part of the way to the mean of the clients' models that the server goes"),
});

/**
 * The common model is trained on the Moreau envelopes of the clients' losses: Dinh, Tran and Nguyen, Personalized Federated
 * Learning with Moreau Envelopes (pFedMe, 2020), algorithm 1. Equal weights, as there; w = (1 - beta) w + beta mean.
 */
export const pfedme: FederatedStrategy<typeof meConfig> = {
  name: 'pfedme',
  config: meConfig,
  objective: ({ lambda, personal_steps, personal_lr }) => ({
    name: 'moreau-envelope',
    config: { lambda, steps: personal_steps, lr: personal_lr },
  }),
  server: ({ beta }) => equally(beta),
};

const apflConfig = z.object({
  alpha: z
    .number()
    .min(0)
    .max(1)
    .default(0.5)
    .describe("share of a client's own part in its model; what it begins with where it adapts"),
  adaptive: z.boolean().default(true).describe('whether each client adapts its share by gradient descent'),
});

/**
 * Clients mix the common model with a part of their own: Deng, Kamani and Mahdavi, Adaptive Personalized Federated Learning (APFL,
 * 2020), algorithm 1. Equal weights, as there.
 */
export const apfl: FederatedStrategy<typeof apflConfig> = {
  name: 'apfl',
  config: apflConfig,
  objective: ({ alpha, adaptive }) => ({ name: 'mixture', config: { alpha, adaptive } }),
  server: () => equally(),
};

/** The mean of the updates with equal weights is added, times a factor. */
function equally(factor = 1): FederatedServer {
  return {
    needs: 'sum',
    weight: () => 1,
    apply: (outcome, params, state) => {
      addMean(outcome, params, state, factor);
    },
  };
}
