import * as z from 'zod';
import { createRng } from '../../../tensor/index.ts';
import { averaging } from '../strategies/fedavg.ts';
import type { FederatedServer } from '../strategy.ts';
import { epsilonAccount } from './accountant.ts';

export const noiseMultiplier = z
  .number()
  .min(0)
  .describe("standard deviation of the noise over the bound on a client's update; more is more private");
export const delta = z
  .number()
  .gt(0)
  .lt(1)
  .default(1e-5)
  .describe('delta at which epsilon is reported; below one over the clients');

/** Central differential privacy: what the server adds so that nobody can tell whether one client took part. */
export const centralDpSchema = z.strictObject({
  name: z.literal('central-dp').describe('the server adds noise to the sum of clipped updates'),
  noise_multiplier: noiseMultiplier,
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
  delta,
});

/** Settings of central differential privacy. */
export type CentralDpConfig = z.output<typeof centralDpSchema>;

/** What has been given away, told by a number each time: counted also where a run goes on from before it. */
export interface Releases {
  /** Called before it is given away. */
  add(value: number): void;
  /** How often there was each number, in all sessions of the run. */
  counts(): ReadonlyMap<number, number>;
}

/** What noise is for, and drawn from. */
export interface NoiseShape {
  readonly cohort: number;
  /** That a cohort is drawn from, where a round does not say. */
  readonly clients: number;
  readonly seed: number;
  /** What real clients have been asked for; absent: checkpoints know, since in a simulation nobody is there to be harmed. */
  readonly releases?: Releases;
  /** What only the server knows; without it whoever knows the seed can take the noise away, as in a simulation. */
  readonly secret?: string;
}

/** A private server, and what it has given away so far. */
export interface PrivateServer extends FederatedServer {
  /** Epsilon after so many rounds, at the config's delta. */
  epsilon(rounds: number): number;
  /** Epsilon of all rounds so far. */
  spent(): number;
  /** The bound on norms as it is now. */
  clipNorm(): number;
}

/**
 * A strategy with differential privacy for clients: McMahan, Ramage, Talwar and Zhang, Learning Differentially Private Recurrent
 * Language Models (2018), algorithm 1 with equal weights and a fixed denominator; with adaptive clipping as in Andrew, Thakkar,
 * McMahan and Ramaswamy, Differentially Private Learning with Adaptive Clipping (2021), algorithm 1, where the noise on the sum is
 * raised so that both releases together cost what `noise_multiplier` says. `inner` is given the noisy sum and nothing else, so that
 * whatever it makes of it costs nothing more.
 * @throws RangeError if the noise on the count is too small for the noise that is asked for
 */
export function centralPrivacy(
  inner: FederatedServer,
  config: Omit<CentralDpConfig, 'name'>,
  { cohort, clients, seed, secret = '', releases }: NoiseShape,
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
  // In vectors, so that they are kept in checkpoints.
  const bound = Float32Array.of(config.clip_norm);
  const released = new Float32Array(1);
  const clipNorm = () => bound[0] as number;
  const account = epsilonAccount(config.noise_multiplier, config.delta);
  const samplingOf = (from: number) => Math.min(1, cohort / from);
  const epsilon = (rounds: number) => account(new Map([[samplingOf(clients), rounds]]));
  const spent = () => (releases ? account(releases.counts()) : epsilon(released[0] as number));
  const { round } = inner;
  return {
    needs: 'sum',
    sees: 'sum',
    vectors: { ...inner.vectors, 'privacy bound': bound, 'privacy rounds': released },
    weight: () => 1,
    clipNorm,
    epsilon,
    spent,
    ...(round ? { round: () => round.call(inner) } : {}),
    metrics: () => ({ ...inner.metrics?.(), ...epsilonFigure(spent()), clip_norm: clipNorm() }),
    apply: ({ sum, round: number, reports, drawnFrom = clients }, params, state) => {
      if (state.length > 0)
        throw new RangeError(
          'running statistics of modules are neither clipped nor hidden by noise: use a model without them',
        );
      releases?.add(samplingOf(drawnFrom));
      const rng = createRng(seed).fork('central privacy', number, secret);
      const noisy = rng.fork('sum').fillNormal(new Float32Array(params.length), 0, sumNoise * clipNorm());
      if (sum) for (let i = 0; i < noisy.length; i++) noisy[i] = (noisy[i] as number) + (sum[i] as number);
      // Divided by how many were asked for, not by how many came: the denominator must not tell who took part.
      inner.apply(
        { round: number, sum: noisy, weight: cohort, updates: [], reports: [], kept: () => null },
        params,
        state,
      );
      released[0] = (released[0] as number) + 1;
      if (!adaptive) return;
      const below = reports.filter(({ norm, clipped = norm > clipNorm() }) => !clipped).length;
      // Counts are centred as in the paper, so that one client changes them by a half.
      const centred = below - reports.length / 2 + countNoise * rng.fork('count').normal();
      const share = centred / cohort + 0.5;
      bound[0] = clipNorm() * Math.exp(-config.clip_lr * (share - config.quantile));
    },
  };
}

/** Federated averaging with central differential privacy. */
export function privateAveraging(
  config: Omit<CentralDpConfig, 'name'>,
  { serverLr = 1, ...shape }: NoiseShape & { readonly serverLr?: number },
): PrivateServer {
  return centralPrivacy(averaging(serverLr), config, shape);
}

/** Epsilon as a figure of metrics: absent where nothing is private, since JSON has no infinity. */
export function epsilonFigure(epsilon: number): Readonly<Record<string, number>> {
  return Number.isFinite(epsilon) ? { epsilon } : {};
}
