import { logErfc } from './log-erfc.ts';

/** A mechanism that is used again and again: Gaussian noise on a sum over a random sample. */
export interface GaussianMechanism {
  /** Standard deviation of the noise over the largest norm of one client's share of the sum. */
  readonly noiseMultiplier: number;
  /** Probability with which each client is part of a round; 1 for all. */
  readonly sampling: number;
  readonly rounds: number;
}

/** Orders at which Renyi divergences are looked at: fine where small budgets lie, coarse above. */
const ORDERS: readonly number[] = [
  ...Array.from({ length: 99 }, (_, i) => 1 + (i + 1) / 10),
  ...Array.from({ length: 53 }, (_, i) => i + 11),
  ...[72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 1024],
];

/**
 * Renyi differential privacy of one round at an order above 1, in nats: Mironov, Talwar and Zhang, Renyi Differential Privacy of the
 * Sampled Gaussian Mechanism (2019), section 3.3, for integer and for fractional orders.
 */
export function renyiOfRound({ noiseMultiplier: sigma, sampling: q }: GaussianMechanism, order: number): number {
  if (!(order > 1)) throw new RangeError(`an order of Renyi divergence is above 1, not ${order}`);
  if (q === 0) return 0;
  if (sigma === 0) return Number.POSITIVE_INFINITY;
  if (q === 1) return order / (2 * sigma * sigma);
  const logA = Number.isInteger(order) ? logMomentInteger(q, sigma, order) : logMomentFraction(q, sigma, order);
  return Math.max(0, logA / (order - 1));
}

/**
 * The epsilon for which all rounds together are (epsilon, delta) differentially private.
 * @param conversion `tight`: Canonne, Kamath and Steinke, The Discrete Gaussian for Differential Privacy (2020), proposition 12.
 *   `classic`: Mironov, Renyi Differential Privacy (2017), proposition 3, which older figures were made with
 * @throws RangeError on a delta outside (0, 1), a negative noise, or a sampling probability outside [0, 1]
 */
export function epsilonOf(
  mechanism: GaussianMechanism,
  delta: number,
  conversion: 'tight' | 'classic' = 'tight',
): number {
  return epsilonAfter(mechanism, delta, conversion)(mechanism.rounds);
}

/** Epsilon by the number of rounds, for asking again and again: divergences are worked out once. Throws as `epsilonOf` does. */
export function epsilonAfter(
  { noiseMultiplier, sampling }: Omit<GaussianMechanism, 'rounds'>,
  delta: number,
  conversion: 'tight' | 'classic' = 'tight',
): (rounds: number) => number {
  const epsilon = epsilonAccount(noiseMultiplier, delta, conversion);
  epsilon(new Map([[sampling, 0]]));
  return (rounds) => epsilon(new Map([[sampling, rounds]]));
}

/**
 * Epsilon of rounds under the same noise that took clients with probabilities of their own, by how many rounds there were with each:
 * divergences add up (Mironov 2017, proposition 1). For asking again and again; throws as `epsilonOf` does.
 */
export function epsilonAccount(
  noiseMultiplier: number,
  delta: number,
  conversion: 'tight' | 'classic' = 'tight',
): (rounds: ReadonlyMap<number, number>) => number {
  if (!(delta > 0 && delta < 1)) throw new RangeError(`delta must be between 0 and 1, not ${delta}`);
  if (!(noiseMultiplier >= 0)) throw new RangeError(`the noise multiplier must be 0 or more, not ${noiseMultiplier}`);
  const known = new Map<number, readonly number[]>();
  const ofRound = (sampling: number): readonly number[] => {
    if (!(sampling >= 0 && sampling <= 1))
      throw new RangeError(`the sampling probability ${sampling} is not in [0, 1]`);
    const found = known.get(sampling);
    const made = found ?? ORDERS.map((order) => renyiOfRound({ noiseMultiplier, sampling, rounds: 1 }, order));
    if (!found) known.set(sampling, made);
    return made;
  };
  return (rounds) => {
    const parts = [...rounds].map(([sampling, count]) => ({ sampling, count, each: ofRound(sampling) }));
    const used = parts.filter(({ sampling, count }) => count > 0 && sampling > 0);
    if (used.length === 0) return 0;
    let best = Number.POSITIVE_INFINITY;
    for (const [i, order] of ORDERS.entries()) {
      const renyi = used.reduce((sum, { count, each }) => sum + count * (each[i] as number), 0);
      const epsilon =
        conversion === 'classic'
          ? renyi + Math.log(1 / delta) / (order - 1)
          : renyi + Math.log1p(-1 / order) - Math.log(delta * order) / (order - 1);
      if (epsilon < best) best = epsilon;
    }
    return Math.max(0, best);
  };
}

/** The smallest noise multiplier, to a thousandth, with which all rounds together are (epsilon, delta) private. */
export function noiseFor(
  budget: { readonly epsilon: number; readonly delta: number },
  use: Pick<GaussianMechanism, 'sampling' | 'rounds'>,
): number {
  const enough = (noiseMultiplier: number) => epsilonOf({ ...use, noiseMultiplier }, budget.delta) <= budget.epsilon;
  let high = 1;
  while (!enough(high)) {
    high *= 2;
    if (high > 1e6) throw new RangeError(`no noise is enough for epsilon ${budget.epsilon} at delta ${budget.delta}`);
  }
  let low = 0;
  while (high - low > 1e-3) {
    const middle = (low + high) / 2;
    if (enough(middle)) high = middle;
    else low = middle;
  }
  return high;
}

/** Logarithm of the moment at an integer order: a binomial sum. */
function logMomentInteger(q: number, sigma: number, order: number): number {
  let total = Number.NEGATIVE_INFINITY;
  let logBinomial = 0;
  for (let k = 0; k <= order; k++) {
    const term = logBinomial + k * Math.log(q) + (order - k) * Math.log1p(-q) + (k * k - k) / (2 * sigma * sigma);
    total = logAdd(total, term);
    logBinomial += Math.log((order - k) / (k + 1));
  }
  return total;
}

/** The same at a fractional order: two infinite series, for either side of where the densities are equal. */
function logMomentFraction(q: number, sigma: number, order: number): number {
  const z = sigma * sigma * Math.log(1 / q - 1) + 0.5;
  const width = Math.SQRT2 * sigma;
  const sums: [log: number, sign: number][] = [];
  let logBinomial = 0;
  let sign = 1;
  for (let i = 0; i < 10_000; i++) {
    const j = order - i;
    const left =
      logBinomial + i * Math.log(q) + j * Math.log1p(-q) + (i * i - i) / (2 * sigma * sigma) + logErfc((i - z) / width);
    const right =
      logBinomial + j * Math.log(q) + i * Math.log1p(-q) + (j * j - j) / (2 * sigma * sigma) + logErfc((z - j) / width);
    sums.push([left, sign], [right, sign]);
    if (i > order && Math.max(left, right) < -40) break;
    const factor = (order - i) / (i + 1);
    sign *= Math.sign(factor);
    logBinomial += Math.log(Math.abs(factor));
  }
  const top = Math.max(...sums.map(([log]) => log));
  const sum = sums.reduce((total, [log, s]) => total + s * Math.exp(log - top), 0);
  return top + Math.log(sum) - Math.LN2;
}

function logAdd(a: number, b: number): number {
  const [low, high] = a < b ? [a, b] : [b, a];
  return high === Number.NEGATIVE_INFINITY ? high : high + Math.log1p(Math.exp(low - high));
}
