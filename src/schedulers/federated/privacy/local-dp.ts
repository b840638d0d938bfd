import * as z from 'zod';
import type { FederatedServer } from '../strategy.ts';
import { epsilonAfter } from './accountant.ts';
import { delta, epsilonFigure, type NoiseShape, noiseMultiplier, type PrivateServer } from './central-dp.ts';

/** Local differential privacy: what clients add, so that the server need not be trusted either. */
export const localDpSchema = z.strictObject({
  name: z.literal('local-dp').describe('every client adds noise to its own clipped update before it sends it'),
  noise_multiplier: noiseMultiplier,
  clip_norm: z.number().positive().default(0.1).describe("bound on the norm of a client's update"),
  delta,
});

/** Settings of local differential privacy. */
export type LocalDpConfig = z.output<typeof localDpSchema>;

/**
 * A strategy whose clients send their updates under noise of their own: the Gaussian mechanism on the whole update (Dwork and Roth,
 * The Algorithmic Foundations of Differential Privacy, 2014, appendix A). Any two updates below the bound are at most twice the
 * bound apart, and it is known who takes part, so that the budget is that of noise of half the multiplier, without sampling, as often
 * as the client was asked that was asked most often.
 * @param clients those that are counted one by one; any with a higher number count as one with the last of them, which can only make
 *   the budget that is told too large
 */
export function localPrivacy(
  inner: FederatedServer,
  config: Omit<LocalDpConfig, 'name'>,
  { clients, releases }: Pick<NoiseShape, 'clients' | 'releases'>,
): PrivateServer {
  const asked = new Float32Array(clients);
  const epsilon = epsilonAfter({ noiseMultiplier: config.noise_multiplier / 2, sampling: 1 }, config.delta);
  // (Looked for each time, since the counts may have come from a checkpoint meanwhile.)
  const spent = () => {
    let most = 0;
    for (const times of releases ? releases.counts().values() : asked) most = Math.max(most, times);
    return epsilon(most);
  };
  const { round } = inner;
  return {
    needs: inner.needs,
    ...(inner.sees ? { sees: inner.sees } : {}),
    vectors: { ...inner.vectors, 'privacy asked': asked },
    weight: () => 1,
    clipNorm: () => config.clip_norm,
    noise: (client) => {
      const at = Math.min(client, clients - 1);
      asked[at] = (asked[at] as number) + 1;
      releases?.add(at);
      return config.noise_multiplier * config.clip_norm;
    },
    epsilon,
    spent,
    ...(round ? { round: () => round.call(inner) } : {}),
    metrics: () => ({ ...inner.metrics?.(), ...epsilonFigure(spent()) }),
    apply: (outcome, params, state) => inner.apply(outcome, params, state),
  };
}
