import * as z from 'zod';
import { epsilonOf } from '../privacy/index.ts';

/** Runs whose fits are remembered. */
const RUNS = 1000;

/**
 * What a client has answered in its life, over all runs and servers. It is on its own disk, so that neither a restart nor a server makes it
 * forget.
 */
export const accountSchema = z.object({
  /** Fits of each run, by its name; of the last thousand runs. */
  runs: z.array(z.tuple([z.string(), z.int().min(1)])),
  /** Fits under noise: the sum of 1 / multiplier^2. */
  noisy: z.number().nonnegative(),
  /** Fits under no noise. */
  bare: z.int().min(0),
});

/** What a client has answered in its life. */
export type ClientAccount = z.output<typeof accountSchema>;

/** Of a client that has answered nothing. */
export const newAccount = (): ClientAccount => ({ runs: [], noisy: 0, bare: 0 });

/** Fits that a client has answered in a run. */
export function fitsIn({ runs }: ClientAccount, run: string): number {
  return runs.find(([name]) => name === run)?.[1] ?? 0;
}

/**
 * The account after one more fit.
 * @param noise standard deviation of the noise on its update over the norm that the update is clipped to; 0 for none
 */
export function withFit(account: ClientAccount, run: string, noise: number): ClientAccount {
  const others = account.runs.filter(([name]) => name !== run);
  const runs: ClientAccount['runs'] = [...others.slice(1 - RUNS), [run, fitsIn(account, run) + 1]];
  return noise > 0
    ? { ...account, runs, noisy: account.noisy + noise ** -2 }
    : { ...account, runs, bare: account.bare + 1 };
}

/**
 * The epsilon for which everything that was answered together is (epsilon, delta) differentially private, towards whoever got it. Updates
 * under a bound are at most twice the bound apart, so the noise counts half; Renyi divergences of Gaussian mechanisms add up
 * as 1 / multiplier^2 does (Mironov, Renyi Differential Privacy, 2017, proposition 7 and corollary 3). Infinite after a fit
 * without noise.
 */
export function epsilonGiven({ noisy, bare }: ClientAccount, delta: number): number {
  if (bare > 0) return Number.POSITIVE_INFINITY;
  return noisy === 0 ? 0 : epsilonOf({ noiseMultiplier: 0.5 / Math.sqrt(noisy), sampling: 1, rounds: 1 }, delta);
}
