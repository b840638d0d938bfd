import type { Signature } from '../engine/index.ts';
import type { Shape } from '../tensor/index.ts';

/** A parameter as the planner sees it. */
export interface ParamSummary {
  readonly path: string;
  readonly shape: Shape;
  readonly bytes: number;
  /** Bytes of the optimizer's state for this parameter. */
  readonly optimizerBytes: number;
}

/** An expert call of a layer: its experts' parameters, expert by expert. */
export interface ExpertCallSummary {
  /** Absolute path of the calling module; expert i is `<path>.experts.<i>`. */
  readonly path: string;
  /** Parameters of each expert. */
  readonly experts: readonly (readonly ParamSummary[])[];
  /** Rows sent in one microbatch and their width, for message sizes. */
  readonly rows: number;
  readonly width: number;
  /** Forward FLOPs of one row through one expert. */
  readonly flopsPerRow: number;
  /** Bytes kept of one row from an expert's forward to its backward. */
  readonly residualBytesPerRow: number;
}

/** What the planner needs to know of a layer, measured from its trace. FLOPs and bytes are for one microbatch. */
export interface LayerSummary {
  readonly name: string;
  /** Parameters that live where the layer lives (experts not included). */
  readonly params: readonly ParamSummary[];
  readonly expertCalls: readonly ExpertCallSummary[];
  readonly forwardFlops: number;
  readonly backwardFlops: number;
  /** Share of backwardFlops that belongs to parameter gradients and can be put off (zero-bubble). */
  readonly backwardWeightFlops: number;
  /** What goes to the next layer (and whose cotangent comes back). */
  readonly outputs: readonly Signature[];
  /** Bytes kept of a microbatch from forward to backward, its inputs included, experts not. */
  readonly residualBytes: number;
  readonly stateBytes: number;
}

/** The model as the planner sees it. The loss belongs to the last layer. */
export interface ModelSummary {
  readonly layers: readonly LayerSummary[];
}
