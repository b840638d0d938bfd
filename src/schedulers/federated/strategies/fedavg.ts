import * as z from 'zod';
import { addMean, type FederatedServer, type FederatedStrategy } from '../strategy.ts';

/** The server of plain averaging: the mean update, weighted by examples, is added to the parameters. */
export function averaging(serverLr = 1): FederatedServer {
  return {
    needs: 'sum',
    sees: 'sum',
    apply: (outcome, params, state) => addMean(outcome, params, state, serverLr),
  };
}

const config = z.object({
  server_lr: z.number().positive().default(1).describe('factor on the mean update'),
});

/**
 * Federated averaging: McMahan, Moore, Ramage, Hampson and Aguera y Arcas, Communication-Efficient Learning of Deep Networks
 * from Decentralized Data (2017), algorithm 1.
 */
export const fedavg: FederatedStrategy<typeof config> = {
  name: 'fedavg',
  config,
  server: ({ server_lr }) => averaging(server_lr),
};

const fedsgdConfig = config.extend({
  local_epochs: z.literal(1).default(1).describe('one pass, always: that is what fedsgd is'),
  local_batch: z.null().default(null).describe("all of a client's examples in one step, always: for others use fedavg"),
});

/**
 * One local step over all of a client's data a round: FedSGD, the same paper, section 2 (B of infinity, E of 1). The weighted mean of such
 * steps is one step of gradient descent on what all clients of the round have.
 */
export const fedsgd: FederatedStrategy<typeof fedsgdConfig> = {
  name: 'fedsgd',
  config: fedsgdConfig,
  server: ({ server_lr }) => averaging(server_lr),
};
