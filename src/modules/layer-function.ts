import type { Signature, TensorFunction } from '../engine/index.ts';
import type { ParamSpec, StateSpec } from './module.ts';

/** A parameter or state of a layer with its absolute path. */
export interface Named<T> {
  readonly path: string;
  readonly spec: T;
}

/** What a layer function's outputs are, in order: activations, objective, metrics, contributions. */
export interface OutputLayout {
  /** Signatures of the values that go to the next layer; empty where the layer ends in the loss. */
  readonly activations: readonly Signature[];
  /** Index of the scalar that is differentiated besides the activations: the loss plus all auxiliary losses. */
  readonly objective: number;
  /** Absolute metric names (`loss`, `accuracy`, `blocks.1.moe.balance`), one output each, after the objective. */
  readonly metrics: readonly { readonly name: string; readonly signature: Signature }[];
  /** State paths that this layer contributes to, one output each, after the metrics. */
  readonly contributions: readonly string[];
}

/** An expert as a function of its own: inputs `[...params, key, rows]`, output rows. All experts of a call share `fn`. */
export interface ExpertFunction {
  /** Absolute path of the calling module. */
  readonly path: string;
  /** Parameters of expert i with absolute paths (`<path>.experts.<i>...`), in the order of `fn`'s inputs. */
  readonly params: readonly (readonly Named<ParamSpec>[])[];
  readonly fn: TensorFunction;
}

/**
 * A layer as a pure function of tensors, which is what an engine compiles. Inputs, in order: parameters, state, `key`
 * (int32 `[2]`, see `layerKey`), the activations, and for the last layer of a training or evaluation function the
 * targets. Two layers of the same structure give functions that trace to the same graph, so they share executables.
 */
export interface LayerFunction {
  readonly name: string;
  readonly params: readonly Named<ParamSpec>[];
  readonly state: readonly Named<StateSpec>[];
  readonly expertCalls: readonly ExpertFunction[];
  readonly fn: TensorFunction;
  readonly inputs: readonly Signature[];
  readonly layout: OutputLayout;
}
