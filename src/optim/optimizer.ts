import type { Tensor } from '@tensorflow/tfjs-core';
import type { Shape } from '../tensor/index.ts';

/** What an optimizer may know about the parameter it updates. */
export interface ParamInfo {
  readonly path: string;
  readonly shape: Shape;
  /** Whether the module allows weight decay on it. */
  readonly decay: boolean;
}

/** Values that change from step to step, as float32 scalars in the traced update. */
export interface StepScalars {
  /** Learning rate of this step, after the schedule. */
  readonly lr: Tensor;
  /** 1 for the first step. */
  readonly step: Tensor;
}

/**
 * A first-order optimizer as traced functions of one parameter. It never sees other parameters: what is global (the
 * gradient norm) is computed by the worker and has already been applied to `grad`.
 */
export interface Optimizer {
  readonly name: string;
  /** Names of the float32 state tensors kept for this parameter, each of the parameter's shape, starting at zero. */
  slots(param: ParamInfo): readonly string[];
  /** Returns the new parameter followed by the new slots. Traced once per shape and group; pure. */
  update(param: Tensor, grad: Tensor, slots: readonly Tensor[], scalars: StepScalars, info: ParamInfo): readonly Tensor[];
  /** Equal keys mean that two parameters of the same shape share one compiled update. */
  groupKey(param: ParamInfo): string;
}

/** Everything that an `optim` section of a config resolves to. */
export interface OptimizerPlan {
  readonly optimizer: Optimizer;
  /** Learning rate of a step (0-based). */
  lrAt(step: number): number;
  /** Global-norm clipping threshold, or null for none. */
  readonly clipNorm: number | null;
}
