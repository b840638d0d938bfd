import * as z from 'zod';
import { type FederatedServer, type FederatedStrategy, meanUpdate, type ServerShape } from '../strategy.ts';

/** How a server optimizer turns the mean update d, and its vectors, into a change of the parameters, element by element. */
type Rule = (d: number, m: number, v: number) => { readonly m: number; readonly v: number };

/**
 * Adaptive server optimizers on the mean update as a pseudo-gradient: Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar
 * and McMahan, Adaptive Federated Optimization (2021), algorithm 2. No bias correction, as there. Module state is averaged.
 */
function adaptive(
  { params }: ServerShape,
  settings: { readonly server_lr: number; readonly tau: number },
  rule: Rule,
): FederatedServer {
  const m = new Float32Array(params.size);
  // The paper begins with v at tau squared at least.
  const v = new Float32Array(params.size).fill(settings.tau ** 2);
  return {
    needs: 'sum',
    sees: 'sum',
    vectors: { m, v },
    apply: (outcome, weights, state) => {
      const mean = meanUpdate(outcome);
      if (!mean) return;
      for (let i = 0; i < weights.length; i++) {
        const next = rule(mean[i] as number, m[i] as number, v[i] as number);
        m[i] = next.m;
        v[i] = next.v;
        weights[i] =
          (weights[i] as number) + (settings.server_lr * (m[i] as number)) / (Math.sqrt(v[i] as number) + settings.tau);
      }
      for (let i = 0; i < state.length; i++) state[i] = (state[i] as number) + (mean[weights.length + i] as number);
    },
  };
}

const shared = {
  server_lr: z.number().positive().default(0.1).describe('learning rate of the server'),
  beta1: z.number().min(0).lt(1).default(0.9).describe('decay of the mean of updates'),
  tau: z.number().positive().default(1e-3).describe('what is added to the root: how adaptive the server is'),
};
const second = z.number().min(0).lt(1).default(0.99).describe('decay of the mean of squared updates');
const momentumConfig = z.object({
  server_lr: z.number().positive().default(1).describe('learning rate of the server'),
  server_momentum: z.number().min(0).lt(1).default(0.9).describe('momentum of the server'),
});
const adagradConfig = z.object({ ...shared, beta1: shared.beta1.unwrap().default(0) });
const adamConfig = z.object({ ...shared, beta2: second });

/**
 * Averaging with momentum on the server: Hsu, Qi and Brown, Measuring the Effects of Non-Identical Data Distribution for
 * Federated Visual Classification (2019), section 3: v = momentum v + d, w = w + lr v.
 */
export const fedavgm: FederatedStrategy<typeof momentumConfig> = {
  name: 'fedavgm',
  config: momentumConfig,
  server: ({ server_lr, server_momentum }, { params }) => {
    const velocity = new Float32Array(params.size);
    return {
      needs: 'sum',
      sees: 'sum',
      vectors: { velocity },
      apply: (outcome, weights, state) => {
        const mean = meanUpdate(outcome);
        if (!mean) return;
        for (let i = 0; i < weights.length; i++) {
          velocity[i] = server_momentum * (velocity[i] as number) + (mean[i] as number);
          weights[i] = (weights[i] as number) + server_lr * (velocity[i] as number);
        }
        for (let i = 0; i < state.length; i++) state[i] = (state[i] as number) + (mean[weights.length + i] as number);
      },
    };
  },
};

/** FedAdagrad: v = v + d^2. */
export const fedadagrad: FederatedStrategy<typeof adagradConfig> = {
  name: 'fedadagrad',
  config: adagradConfig,
  server: (settings, shape) =>
    adaptive(shape, settings, (d, m, v) => ({
      m: settings.beta1 * m + (1 - settings.beta1) * d,
      v: v + d * d,
    })),
};

/** FedAdam: v = beta2 v + (1 - beta2) d^2. */
export const fedadam: FederatedStrategy<typeof adamConfig> = {
  name: 'fedadam',
  config: adamConfig,
  server: (settings, shape) =>
    adaptive(shape, settings, (d, m, v) => ({
      m: settings.beta1 * m + (1 - settings.beta1) * d,
      v: settings.beta2 * v + (1 - settings.beta2) * d * d,
    })),
};

/** FedYogi: v = v - (1 - beta2) d^2 sign(v - d^2). */
export const fedyogi: FederatedStrategy<typeof adamConfig> = {
  name: 'fedyogi',
  config: adamConfig,
  server: (settings, shape) =>
    adaptive(shape, settings, (d, m, v) => ({
      m: settings.beta1 * m + (1 - settings.beta1) * d,
      v: v - (1 - settings.beta2) * d * d * Math.sign(v - d * d),
    })),
};
