import * as z from 'zod';
import type { FederatedStrategy } from '../strategy.ts';

/** Added to losses, whose power q - 1 may be negative. */
const EPSILON = 1e-10;

const config = z.object({
  q: z.number().min(0).default(1).describe('how much clients with a large loss count for more; 0 gives equal weights'),
  lipschitz: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe('estimate of the Lipschitz constant of the gradient; null for 1 / the learning rate of the clients'),
});

/**
 * Clients count for more where the model does worse: Li, Sanjabi, Beirami and Smith, Fair Resource Allocation in Federated Learning
 * (2020), q-FedAvg, algorithm 2. With F the loss that a client had at the start, d = L (w - w_client):
 * w = w - (sum of F^q d) / (sum of q F^(q - 1) |d|^2 + L F^q). Module state is averaged by examples.
 */
export const qfedavg: FederatedStrategy<typeof config> = {
  name: 'qfedavg',
  config,
  objective: () => ({ name: 'start-loss', config: {} }),
  server: ({ q, lipschitz }) => ({
    needs: 'each',
    apply: ({ updates, weight }, params, state) => {
      if (updates.length === 0) return;
      const step = new Float64Array(params.length);
      const means = new Float64Array(state.length);
      let steepness = 0;
      for (const { update, report } of updates) {
        const loss = report.sent?.start_loss?.[0];
        const rate = report.lr;
        if (loss === undefined || rate === undefined)
          throw new Error(
            `client ${report.client} did not say what its loss or its learning rate was; q-FedAvg needs the objective "start-loss"`,
          );
        const large = loss + EPSILON;
        const l = lipschitz ?? 1 / rate;
        const factor = large ** q;
        let squares = 0;
        for (let i = 0; i < step.length; i++) {
          const d = l * (update[i] as number);
          step[i] = (step[i] as number) + factor * d;
          squares += d * d;
        }
        steepness += q * large ** (q - 1) * squares + l * factor;
        for (let i = 0; i < means.length; i++)
          means[i] = (means[i] as number) + ((update[params.length + i] as number) * report.weight) / weight;
      }
      for (let i = 0; i < params.length; i++) params[i] = (params[i] as number) + (step[i] as number) / steepness;
      for (let i = 0; i < state.length; i++) state[i] = (state[i] as number) + (means[i] as number);
    },
  }),
};
