import type { Metrics } from '../coordinator/index.ts';

/**
 * Each expert's share of the tokens relative to an even share, of the mixture where it is least even. Empty without
 * experts. Routers report the fractions as the metric `<path>.load`.
 */
export function expertShares(metrics: Metrics): readonly number[] {
  let worst: readonly number[] = [];
  for (const [name, value] of Object.entries(metrics)) {
    if (!name.endsWith('.load') || typeof value === 'number') continue;
    const shares = value.map((fraction) => fraction * value.length);
    if (worst.length === 0 || Math.max(...shares) > Math.max(...worst)) worst = shares;
  }
  return worst;
}
