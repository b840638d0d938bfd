import type { Rng } from '../../tensor/index.ts';

/** How the next token is chosen. */
export interface SamplingOptions {
  /** Divides the logits; 0 takes the likeliest token. */
  readonly temperature: number;
  /** Sample among this many likeliest tokens; 0 for all. */
  readonly topK: number;
}

/**
 * Draws a token from logits: softmax of `logits / temperature` over the `topK` largest. Ties go to the lower id, so that
 * the result depends on the logits and the generator alone.
 * @throws RangeError if no logit is finite.
 */
export function sampleToken(logits: Float32Array, { temperature, topK }: SamplingOptions, rng: Rng): number {
  const ids = Array.from(logits.keys()).filter((id) => Number.isFinite(logits[id]));
  ids.sort((a, b) => (logits[b] as number) - (logits[a] as number) || a - b);
  const best = ids[0];
  if (best === undefined) throw new RangeError('no logit is finite: the weights are damaged or training had diverged');
  if (temperature === 0) return best;
  const chosen = topK > 0 ? ids.slice(0, topK) : ids;
  const top = logits[best] as number;
  const weights = chosen.map((id) => Math.exp(((logits[id] as number) - top) / temperature));
  let left = rng.uniform() * weights.reduce((sum, weight) => sum + weight, 0);
  for (const [i, weight] of weights.entries()) {
    left -= weight;
    if (left < 0) return chosen[i] as number;
  }
  return chosen[chosen.length - 1] as number;
}
