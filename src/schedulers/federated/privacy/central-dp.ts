import { z } from 'zod';
import { createRng } from '../../../tensor/index.ts';
import { addUpdate, type FederatedServer } from '../strategy.ts';
import { epsilonOf } from './accountant.ts';

/** Central differential privacy: what the server adds so that nobody can tell whether one client took part. */
export const privacySchema = z.strictObject({
  noise_multiplier: z
    .number()
    .min(0)
    .describe("standard deviation of the noise over the bound on a client's update; more is more private"),
  clip_norm: z
    .number()
    .positive()
    .default(0.1)
    .describe("bound on the norm of a client's update (where it begins, if adaptive)"),
  clipping: z
    .enum(['fixed', 'adaptive'])
    .default('fixed')
    .describe('adaptive moves the bound towards a quantile of the norms of updates'),
  quantile: z.number().gt(0).lt(1).default(0.5).describe('share of updates that should be below the adaptive bound'),
  clip_lr: z.number().positive().default(0.2).describe('how fast the adaptive bound moves'),
  count_noise: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe(
      'standard deviation of the noise on the count of clients below the bound; null for a twentieth of the cohort',
    ),
  delta: z
    .number()
    .gt(0)
    .lt(1)
    .default(1e-5)
    .describe('delta at which epsilon is reported; below one over the clients'),
});

/** Settings of central differential privacy. */
export type PrivacyConfig = z.output<typeof privacySchema>;

/** A private server, and what it has given away so far. */
export interface PrivateServer extends FederatedServer {
  /** Epsilon after so many rounds, at the config's delta. */
  epsilon(rounds: number): number;
  /** The bound on norms as it is now. */
  clipNorm(): number;
}

/**
 * Federated averaging with differential privacy for clients: McMahan, Ramage, Talwar and Zhang, Learning Differentially Private
 * Recurrent Language Models (2018), algorithm 1 with equal weights and a fixed denominator; with adaptive clipping as in Andrew,
 * Thakkar, McMahan and Ramaswamy, Differentially Private Learning with Adaptive Clipping (2021), algorithm 1, where the noise on the
 * sum is raised so that both releases together cost what `noise_multiplier` says.
 */
export function privateAveraging(
  config: PrivacyConfig,
  {
    cohort,
    clients,
    seed,
    serverLr = 1,
  }: { readonly cohort: number; readonly clients: number; readonly seed: number; readonly serverLr?: number },
): PrivateServer {
  const adaptive = config.clipping === 'adaptive';
  const countNoise = config.count_noise ?? cohort / 20;
  // Theorem 1 of Andrew et al.: z_sum = (z^-2 - (2 sigma_b)^-2)^(-1/2).
  const inverse = config.noise_multiplier ** -2 - (adaptive ? (2 * countNoise) ** -2 : 0);
  if (config.noise_multiplier > 0 && inverse <= 0)
    throw new RangeError(
      `privacy.noise_multiplier ${config.noise_multiplier} cannot be had with noise of ${countNoise} on the count: raise count_noise above ${config.noise_multiplier / 2}`,
    );
  const sumNoise = config.noise_multiplier === 0 ? 0 : inverse ** -0.5;
  // One number, in a vector, so that it is kept in checkpoints.
  const bound = Float32Array.of(config.clip_norm);
  const clipNorm = () => bound[0] as number;
  return {
    needs: 'sum',
    vectors: { bound },
    weight: () => 1,
    clipNorm,
    epsilon: (rounds) =>
      epsilonOf({ noiseMultiplier: config.noise_multiplier, sampling: cohort / clients, rounds }, config.delta),
    apply: ({ sum, round, reports }, params, state) => {
      const rng = createRng(seed).fork('central privacy', round);
      const deviation = sumNoise * clipNorm();
      const noise = rng.fork('sum').fillNormal(new Float32Array(params.length), 0, deviation);
      const noisy = new Float32Array(params.length + state.length);
      // Divided by how many were asked for, not by how many came: the denominator must not tell who took part.
      for (let i = 0; i < params.length; i++) noisy[i] = ((sum?.[i] ?? 0) + (noise[i] as number)) / cohort;
      for (let i = params.length; i < noisy.length; i++)
        noisy[i] = reports.length === 0 ? 0 : (sum?.[i] ?? 0) / reports.length;
      addUpdate(noisy, params, state, serverLr);
      if (!adaptive) return;
      const below = reports.filter(({ norm }) => norm <= clipNorm()).length;
      // Counts are centred as in the paper, so that one client changes them by a half.
      const centred = below - reports.length / 2 + countNoise * rng.fork('count').normal();
      const share = centred / cohort + 0.5;
      bound[0] = clipNorm() * Math.exp(-config.clip_lr * (share - config.quantile));
    },
  };
}

/** Adds a client's own noise to its clipped update: local differential privacy, where the server is not trusted either. */
export function addLocalNoise(
  update: Float32Array,
  { noiseMultiplier, clipNorm }: { readonly noiseMultiplier: number; readonly clipNorm: number },
  keys: { readonly seed: number; readonly round: number; readonly client: number },
): void {
  const rng = createRng(keys.seed).fork('local privacy', keys.round, keys.client);
  const noise = rng.fillNormal(new Float32Array(update.length), 0, noiseMultiplier * clipNorm);
  for (let i = 0; i < update.length; i++) update[i] = (update[i] as number) + (noise[i] as number);
}
