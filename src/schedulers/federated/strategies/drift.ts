import * as z from 'zod';
import { addUpdate, type FederatedStrategy, meanUpdate, type ServerShape } from '../strategy.ts';
import { averaging } from './fedavg.ts';

const proxConfig = z.object({ mu: z.number().min(0).default(0.01).describe('weight of the proximal term') });

/** Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, Federated Optimization in Heterogeneous Networks (2020), algorithm 2. */
export const fedprox: FederatedStrategy<typeof proxConfig> = {
  name: 'fedprox',
  config: proxConfig,
  objective: ({ mu }) => ({ name: 'proximal', config: { mu } }),
  server: () => averaging(),
};

/** Why what clients train with does not suit a strategy that goes by the length of their way; null if it does. */
const withoutLength =
  (why: string): NonNullable<FederatedStrategy['unsuited']> =>
  (_, { optimizer }) =>
    optimizer && !optimizer.pathLength
      ? `${why}, and steps of ${optimizer.name} are not sums of gradients; set optim.name to sgd`
      : null;

/** Length of so many steps of what clients train with: plain gradient descent unless the shape says otherwise. */
const pathLength = ({ optimizer }: ServerShape, steps: number): number => optimizer?.pathLength?.(steps) ?? steps;

const novaConfig = z.object({});

/**
 * Updates divided by the length of the way that local steps make before they are averaged, so that clients with more steps do not
 * pull the optimum their way: Wang, Liu, Liang, Joshi and Poor, Tackling the Objective Inconsistency Problem (FedNova, 2020),
 * equation 12, tau_eff the mean length. That is the number of steps with plain SGD, and more with momentum (section 4.1).
 */
export const fednova: FederatedStrategy<typeof novaConfig> = {
  name: 'fednova',
  config: novaConfig,
  unsuited: withoutLength('updates are divided by how far a constant gradient takes local steps'),
  server: (_, shape) => {
    const lengthOf = (steps: number) => pathLength(shape, steps);
    return {
      needs: 'sum',
      sees: 'reports',
      weight: ({ examples, steps }) => (steps === 0 ? 0 : examples / lengthOf(steps)),
      apply: ({ sum, reports }, params, state) => {
        const examples = reports.reduce((total, report) => total + report.examples, 0);
        if (!sum || examples === 0) return;
        const length =
          reports.reduce((total, report) => total + report.examples * lengthOf(report.steps), 0) / examples;
        // (Module state is no direction: its weights must add up to one, whatever the steps.)
        const weights = reports.reduce((total, report) => total + report.weight, 0);
        const scaled = sum.map((value, i) => (i < params.length ? (value * length) / examples : value / weights));
        addUpdate(scaled, params, state);
      },
    };
  },
};

const scaffoldConfig = z.object({
  server_lr: z.number().positive().default(1).describe('factor on the mean update'),
});

/**
 * Control variates against client drift: Karimireddy, Kale, Mohri, Reddi, Stich and Suresh, SCAFFOLD (2020), algorithm 1,
 * option II. Updates are averaged with equal weights, as there.
 */
export const scaffold: FederatedStrategy<typeof scaffoldConfig> = {
  name: 'scaffold',
  config: scaffoldConfig,
  unsuited: withoutLength('control variates are means of gradients, taken from how far local steps went'),
  objective: () => ({ name: 'control-variates', config: {} }),
  server: ({ server_lr }, { params, clients }) => {
    const variate = new Float32Array(params.size);
    return {
      needs: 'sum',
      weight: () => 1,
      vectors: { variate },
      reads: ['own'],
      round: () => ({ server: variate }),
      apply: (outcome, weights, state) => {
        const mean = meanUpdate(outcome);
        if (!mean) return;
        addUpdate(mean, weights, state, server_lr);
        // c = c + (|S| / N) mean of (c_i+ - c_i), in the order of the cohort.
        for (const { client, kept } of outcome.reports) {
          const before = outcome.kept(client, 'own');
          const now = kept.own as Float32Array;
          for (let i = 0; i < variate.length; i++)
            variate[i] = (variate[i] as number) + ((now[i] as number) - (before?.[i] ?? 0)) / clients;
        }
      },
    };
  },
};

const dynConfig = z.object({
  alpha: z.number().positive().default(0.01).describe('weight of the dynamic regulariser'),
});

/**
 * Acar, Zhao, Matas, Mattina, Whatmough and Saligrama, Federated Learning Based on Dynamic Regularization (2021), algorithm 1:
 * h = h - alpha / N sum of updates; w = mean of the clients' parameters - h / alpha.
 */
export const feddyn: FederatedStrategy<typeof dynConfig> = {
  name: 'feddyn',
  config: dynConfig,
  objective: ({ alpha }) => ({ name: 'dynamic', config: { alpha } }),
  server: ({ alpha }, { params, clients }) => {
    const h = new Float32Array(params.size);
    return {
      needs: 'sum',
      sees: 'sum',
      weight: () => 1,
      vectors: { h },
      apply: ({ sum, weight }, weights, state) => {
        if (!sum || weight === 0) return;
        for (let i = 0; i < weights.length; i++) {
          h[i] = (h[i] as number) - (alpha * (sum[i] as number)) / clients;
          weights[i] = (weights[i] as number) + (sum[i] as number) / weight - (h[i] as number) / alpha;
        }
        for (let i = 0; i < state.length; i++)
          state[i] = (state[i] as number) + (sum[weights.length + i] as number) / weight;
      },
    };
  },
};
