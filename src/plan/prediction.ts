import type { ModelSummary } from './summary.ts';

/** Examples that a microbatch of a prediction has at most, and bytes of activations. */
const MOST_EXAMPLES = 512;
const MOST_BYTES = 32 * 2 ** 20;

/**
 * Examples that a microbatch of a prediction may have. Nothing is kept for a backward, so it can be larger than those of training,
 * of which each costs as much again in overhead where they are small. The same on every mesh: only the model and the microbatch of
 * training decide. (Experts get a microbatch's rows by what else is in it, so models with experts keep that of training.)
 * @returns a multiple of `micro`
 */
export function largestPrediction({ layers }: ModelSummary, micro: number): number {
  if (layers.some(({ expertCalls }) => expertCalls.length > 0)) return micro;
  const bytes = layers.reduce((sum, { residualBytes }) => sum + residualBytes, 0) / micro;
  const most = Math.min(MOST_EXAMPLES, MOST_BYTES / Math.max(1, bytes));
  return micro * Math.max(1, Math.floor(most / micro));
}

/**
 * Examples of each microbatch of a prediction for so many: `largest`, or where there are fewer, as small a doubling of `micro` as
 * holds them, so that only a few sizes are ever compiled.
 */
export function predictionMicrobatch(examples: number, micro: number, largest: number): number {
  let size = micro;
  while (size < examples && size < largest) size *= 2;
  return Math.min(size, largest);
}
