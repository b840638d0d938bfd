import type { Rng, Shape } from '../../../tensor/index.ts';

/** A weight that may be pruned. */
export interface PrunableWeight {
  readonly shape: Shape;
  readonly size: number;
  /** FLOPs that each of its numbers costs in the forward of an example. */
  readonly flopsPerNumber: number;
}

/** What the numbers that are kept of all prunable weights may come to. */
export interface SparseBudget {
  readonly numbers: number;
  /** FLOPs of an example's forward in products with these weights. */
  readonly flops: number;
}

/** Relative densities: all alike. */
export const uniformDensities = (weights: readonly PrunableWeight[]): number[] => weights.map(() => 1);

/**
 * Relative densities by the sums of dimensions over their product (Erdős-Rényi-kernel: Evci et al., RigL, 2020, section 3): large
 * weights are pruned more.
 */
export const erkDensities = (weights: readonly PrunableWeight[]): number[] =>
  weights.map(({ shape, size }) => shape.reduce((sum, dim) => sum + dim, 0) / size);

/** Relative densities drawn for each weight, log-uniform between 1 / spread and spread. */
export const drawnDensities = (weights: readonly PrunableWeight[], spread: number, rng: Rng): number[] =>
  weights.map(() => spread ** (2 * rng.uniform() - 1));

/**
 * How many numbers to keep of each weight: in proportion to its relative density, none more than all, as many as the budget
 * allows. At least one of each.
 * @throws RangeError if one number of each weight is more than the budget
 */
export function keptCounts(
  weights: readonly PrunableWeight[],
  relative: readonly number[],
  budget: SparseBudget,
): number[] {
  const counts = (scale: number) =>
    weights.map(({ size }, i) => Math.max(1, Math.min(size, Math.floor(scale * (relative[i] as number) * size))));
  if (!within(weights, counts(0), budget))
    throw new RangeError(
      `a budget of ${budget.numbers} numbers and ${Math.round(budget.flops)} FLOPs is too small for one number of each of ` +
        `${weights.length} weights; allow more density or flops`,
    );
  let [low, high] = [0, 1 / Math.min(...relative)];
  if (within(weights, counts(high), budget)) return counts(high);
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (within(weights, counts(middle), budget)) low = middle;
    else high = middle;
  }
  return counts(low);
}

/** FLOPs in products with sparse weights. */
export function sparseFlops(weights: readonly PrunableWeight[], kept: readonly number[]): number {
  return weights.reduce((sum, { flopsPerNumber }, i) => sum + flopsPerNumber * (kept[i] as number), 0);
}

function within(weights: readonly PrunableWeight[], kept: readonly number[], budget: SparseBudget): boolean {
  const numbers = kept.reduce((sum, count) => sum + count, 0);
  return numbers <= budget.numbers && sparseFlops(weights, kept) <= budget.flops;
}
