import type { LayerSummary, ModelSummary } from './summary.ts';

/** FLOPs of a layer for one microbatch, experts included (each rank of an expert group computes an equal part of them). */
export interface LayerCost {
  readonly forward: number;
  /** The whole backward. */
  readonly backward: number;
  /** The part of `backward` that can be put off: parameter gradients. */
  readonly backwardWeight: number;
}

/** A matmul's backward is two of its size, one of them for the parameter: so it is taken for experts. */
const EXPERT_BACKWARD = 2;
const EXPERT_WEIGHT = 1;

/** FLOPs of one expert call in a forward, per microbatch. */
export function expertCallFlops(layer: LayerSummary, call: number): number {
  const summary = layer.expertCalls[call];
  return summary ? summary.rows * summary.flopsPerRow : 0;
}

/** FLOPs of an expert call's backward, and of the part that can be put off. */
export function expertBackwardFlops(layer: LayerSummary, call: number): { readonly total: number; readonly weight: number } {
  const forward = expertCallFlops(layer, call);
  return { total: EXPERT_BACKWARD * forward, weight: EXPERT_WEIGHT * forward };
}

/** FLOPs of a layer with its experts. */
export function layerCost(layer: LayerSummary): LayerCost {
  const experts = layer.expertCalls.reduce((sum, _, call) => sum + expertCallFlops(layer, call), 0);
  return {
    forward: layer.forwardFlops + experts,
    backward: layer.backwardFlops + EXPERT_BACKWARD * experts,
    backwardWeight: layer.backwardWeightFlops + EXPERT_WEIGHT * experts,
  };
}

/** Whether a layer's forward and backward are one executable: the last one, unless it has expert calls. */
export function isFused(summary: ModelSummary, layer: number): boolean {
  return layer === summary.layers.length - 1 && summary.layers[layer]?.expertCalls.length === 0;
}
