import { createRng } from '../../tensor/index.ts';

/** How many of so many elements a ratio keeps: at least one, where there is one. */
export function keptOf(elements: number, ratio: number): number {
  return Math.min(elements, Math.max(1, Math.round(elements * ratio)));
}

/**
 * Positions that both ends draw from a seed, so that they need not be sent: the elements are cut into `kept` runs of nearly
 * equal length, and one of each is drawn (the random masks of Konečný et al., Federated Learning: Strategies for Improving
 * Communication Efficiency, 2016, stratified). In ascending order.
 */
export function seededPositions(elements: number, kept: number, seed: number): Int32Array {
  const rng = createRng(seed).fork('random mask', elements);
  return Int32Array.from({ length: kept }, (_, i) => {
    const start = runStart(elements, kept, i);
    return start + rng.integer(runStart(elements, kept, i + 1) - start);
  });
}

/** Elements of the run that the i-th position is drawn from: one over its chance to be drawn. */
export function runLength(elements: number, kept: number, i: number): number {
  return runStart(elements, kept, i + 1) - runStart(elements, kept, i);
}

function runStart(elements: number, kept: number, i: number): number {
  return Math.floor((i * elements) / kept);
}
