import * as z from 'zod';
import type { FederatedStrategy } from '../strategy.ts';
import { averaging } from './fedavg.ts';

const paths = z.array(z.string().min(1)).min(1);

const bnConfig = z.object({
  personal: paths
    .default(['*norm*', '*bn*'])
    .describe('paths of parameters and module state that stay with the client; * stands for any characters'),
});

/**
 * Averaging in which normalisation stays with the client, statistics included: Li, Jiang, Zhang, Kamp and Dou, FedBN: Federated
 * Learning on Non-IID Features via Local Batch Normalization (2021), algorithm 1.
 */
export const fedbn: FederatedStrategy<typeof bnConfig> = {
  name: 'fedbn',
  config: bnConfig,
  objective: ({ personal }) => ({ name: 'personal-layers', config: { paths: personal } }),
  server: () => averaging(),
};

const perConfig = z.object({
  personal: paths
    .default(['head.*'])
    .describe('paths of parameters that stay with the client; * stands for any characters'),
});

/**
 * Averaging of the first layers only; the last ones are the client's own: Arivazhagan, Aggarwal, Singh and Choudhary, Federated
 * Learning with Personalization Layers (FedPer, 2019).
 */
export const fedper: FederatedStrategy<typeof perConfig> = {
  name: 'fedper',
  config: perConfig,
  objective: ({ personal }) => ({ name: 'personal-layers', config: { paths: personal } }),
  server: () => averaging(),
};
