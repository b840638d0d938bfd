import type { Rng } from '../../tensor/index.ts';

/**
 * A draw from the symmetric Dirichlet distribution: `size` shares that sum to 1, as gamma draws divided by their sum. In
 * logarithms, so that an alpha near 0, where all but one share vanish, does not end as 0 / 0.
 */
export function dirichletDraw(rng: Rng, alpha: number, size: number): number[] {
  const logs = Array.from({ length: size }, () => logGammaDraw(rng, alpha));
  const top = Math.max(...logs);
  const shares = logs.map((log) => Math.exp(log - top));
  const sum = shares.reduce((total, share) => total + share, 0);
  return shares.map((share) => share / sum);
}

/**
 * Logarithm of a draw from Gamma(alpha, 1): Marsaglia and Tsang, A Simple Method for Generating Gamma Variables (2000);
 * for alpha below 1 a draw with alpha + 1 times u^(1 / alpha), as in its section 6.
 */
export function logGammaDraw(rng: Rng, alpha: number): number {
  if (!(alpha > 0)) throw new RangeError(`the alpha of a Dirichlet distribution must be above 0, not ${alpha}`);
  if (alpha < 1) return logGammaDraw(rng, alpha + 1) + Math.log(positive(rng)) / alpha;
  const d = alpha - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = rng.normal();
    const v = (1 + c * x) ** 3;
    if (v <= 0) continue;
    if (Math.log(positive(rng)) < 0.5 * x * x + d - d * v + d * Math.log(v)) return Math.log(d * v);
  }
}

/** Uniform in (0, 1]: its logarithm is finite. */
function positive(rng: Rng): number {
  return 1 - rng.uniform();
}
