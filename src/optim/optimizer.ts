import type { Tensor } from '@tensorflow/tfjs-core';
import type { Shape } from '../tensor/index.ts';

/** What an optimizer may know about the parameter it updates. */
export interface ParamInfo {
  readonly path: string;
  readonly shape: Shape;
  /** Whether the module allows weight decay on it. */
  readonly decay: boolean;
}

/**
 * What a step is for. `train`: the optimizer changes the parameters. `observe`: gradients are looked at and kept in slots;
 * parameters and the optimizer's own state stay (importance of weights, gradients of a memory).
 */
export type StepPhase = 'train' | 'observe';

/**
 * A first-order optimizer as traced functions of one parameter. It never sees other parameters: what is global (the
 * gradient norm) is computed by the worker and has already been applied to `grad`.
 */
export interface Optimizer {
  readonly name: string;
  /** Names of the float32 state tensors kept for this parameter, each of the parameter's shape, starting at zero. */
  slots(param: ParamInfo): readonly string[];
  /**
   * What changes from step to step, the same for every parameter: computed on the host in double precision (bias
   * corrections lose five digits in float32) and given to `update` as float32 scalars. Its length never changes.
   * @param lr learning rate of this step, after the schedule
   * @param step 1 for the first step
   */
  scalars(lr: number, step: number): readonly number[];
  /**
   * Scalars that are summed over all parameters of the model, in path order and in double precision, before any of them is
   * updated: inner products of gradients, say. Absent for none.
   */
  readonly sums?: {
    readonly count: number;
    of(param: Tensor, grad: Tensor, slots: readonly Tensor[], info: ParamInfo): readonly Tensor[];
    /** Whether a step (1 for the first) wants them; where not, `numbers` are given none. Default: every step does. */
    at?(step: number): boolean;
  };
  /** Further scalars of a step, given to `update` after those of `scalars`: what follows from the sums, where there are any. */
  readonly numbers?: { readonly count: number; of(sums: readonly number[], step: number): readonly number[] };
  /** What a step (1 for the first) is for, where steps differ in that; absent where all of them train. */
  phaseAt?(step: number): StepPhase;
  /**
   * Returns the new parameter followed by the new slots. Traced once per shape, group and phase; pure.
   * @param phase what the step is for, where that is known when it is traced; else the update does as its scalars say, with the same
   * bits and more work
   */
  update(
    param: Tensor,
    grad: Tensor,
    slots: readonly Tensor[],
    scalars: readonly Tensor[],
    info: ParamInfo,
    phase?: StepPhase,
  ): readonly Tensor[];
  /**
   * How far this many steps from fresh state with one and the same gradient g move a parameter, in units of lr g: with momentum
   * further than their number (the norm of a_i of Wang et al., FedNova, 2020, section 4.1). Absent where steps are not sums of
   * gradients with fixed factors, so that no such length exists.
   */
  pathLength?(steps: number): number;
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

/** What a parameter's group decides: both are constants of the traced update. */
export interface GroupSettings {
  /** Factor on the learning rate. */
  readonly lr: number;
  readonly weightDecay: number;
}

/** Settings of the group that a parameter belongs to. */
export type GroupOf = (param: ParamInfo) => GroupSettings;

/** A key that tells settings apart. */
export function groupKeyOf({ lr, weightDecay }: GroupSettings): string {
  return `lr*${lr} wd=${weightDecay}`;
}

/**
 * The scalars that an optimizer's update takes in a step (0-based): `scalars`, then `numbers`.
 * @param sums totals of what it wants summed; none where the step wants nothing
 */
export function stepScalars(plan: OptimizerPlan, step: number, sums: readonly number[]): number[] {
  const { optimizer } = plan;
  return [...optimizer.scalars(plan.lrAt(step), step + 1), ...(optimizer.numbers?.of(sums, step + 1) ?? [])];
}

/** How many scalars an optimizer's update takes. */
export function scalarCount(optimizer: Optimizer): number {
  return optimizer.scalars(0, 1).length + (optimizer.numbers?.count ?? 0);
}
