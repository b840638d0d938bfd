import type { SegmentPart, Stage } from './program.ts';
import type { LayerSummary, ModelSummary } from './summary.ts';

/** FLOPs for one microbatch. */
export interface Flops {
  readonly forward: number;
  /** The whole backward. */
  readonly backward: number;
  /** The part of `backward` that can be put off: parameter gradients. */
  readonly backwardWeight: number;
}

/** FLOPs of a layer with its experts (each rank of an expert group computes an equal part of them). */
export function layerFlops(layer: LayerSummary): Flops {
  return sumFlops([
    { forward: layer.forwardFlops, backward: layer.backwardFlops, backwardWeight: layer.backwardWeightFlops },
    ...layer.expertCalls.map((_, call) => expertFlops(layer, call)),
  ]);
}

/** FLOPs of a stage. Together with the loss, the last one's backward partly happens in its forward; see `partFlops`. */
export function stageFlops(summary: ModelSummary, stage: Stage): Flops {
  return sumFlops(stage.layers.map((index) => layerFlops(summary.layers[index] as LayerSummary)));
}

/** FLOPs of one part of a segment. A layer's are spread evenly over its phases, which is not known better. */
export function partFlops(summary: ModelSummary, part: SegmentPart, mode: 'train' | 'evaluate'): Flops {
  const layer = summary.layers[part.layer] as LayerSummary;
  if (part.kind === 'experts') return expertFlops(layer, part.call);
  const phases = layer.expertCalls.length + 1;
  const forward = layer.forwardFlops / phases;
  const backward = layer.backwardFlops / phases;
  // The last layer's last phase and its backward are one executable, which runs at the Forward.
  const fused = part.layer === summary.layers.length - 1 && part.phase === phases - 1 && mode === 'train';
  if (fused) return { forward: forward + backward, backward: 0, backwardWeight: 0 };
  return { forward, backward, backwardWeight: layer.backwardWeightFlops / phases };
}

/** Sums of FLOPs. */
export function sumFlops(list: readonly Flops[]): Flops {
  let forward = 0;
  let backward = 0;
  let backwardWeight = 0;
  for (const flops of list) {
    forward += flops.forward;
    backward += flops.backward;
    backwardWeight += flops.backwardWeight;
  }
  return { forward, backward, backwardWeight };
}

/** An expert is mostly matmuls, whose backward is two of their size, one of them for the parameters. */
function expertFlops(layer: LayerSummary, call: number): Flops {
  const summary = layer.expertCalls[call];
  const forward = summary ? summary.rows * summary.flopsPerRow : 0;
  return { forward, backward: 2 * forward, backwardWeight: forward };
}
