import type { Tensor } from '@tensorflow/tfjs-core';
import type { Signature } from '../engine/index.ts';
import type { Rng, Shape } from '../tensor/index.ts';

/** Fills a new parameter. The generator is keyed by (seed, parameter path), so every rank draws the same values. */
export type Initializer = (rng: Rng, shape: Shape) => Float32Array;

/** A trainable float32 tensor that a module declares. */
export interface ParamSpec {
  readonly shape: Shape;
  readonly init: Initializer;
  /** Whether weight decay applies; by convention to matrices but not to biases, gains and embeddings of norms. */
  readonly decay: boolean;
}

/**
 * A float32 tensor that is carried from step to step but not trained by gradients (running statistics, router bias).
 * During a step it is read-only; each global microbatch contributes a tensor of the same shape, the contributions are
 * summed in the canonical tree, and `update` is applied once at the end of the step.
 */
export interface StateSpec {
  readonly shape: Shape;
  /** Every element at first, or what fills it as it fills a parameter. */
  readonly init: number | Initializer;
  /** Traced: the new state from the old, the sum of contributions, and how many microbatches there were. */
  update(state: Tensor, contribution: Tensor, microbatches: number): Tensor;
}

/** A module's own parameters or state, by name. */
export type Tensors = Readonly<Record<string, Tensor>>;

/** What a module may use besides its parameters and inputs. Everything here is functional: calls are recorded in the trace. */
export interface Context {
  /** Absolute path of the module being run, e.g. `blocks.3.moe`. */
  readonly path: string;
  /** False in evaluation and generation: dropout is off, batch norm uses its running statistics. */
  readonly training: boolean;
  /** This module's state at the start of the step. */
  readonly state: Tensors;
  /** Runs a child module by its name in `children` and returns its single output. */
  run(child: string, ...inputs: Tensor[]): Tensor;
  /** Runs a child that has any number of outputs. */
  runAll(child: string, inputs: readonly Tensor[]): readonly Tensor[];
  /** Uniform float32 in [0, 1), keyed by (seed, step, global microbatch, path, n-th call in this module). */
  uniform(shape: Shape): Tensor;
  /** Adds this microbatch's contribution to the state called `name`. At most once a forward. Ignored when not training. */
  contribute(name: string, value: Tensor): void;
  /**
   * Adds a scalar to the training objective (a router's balance loss, say), already multiplied by its coefficient. It is
   * averaged over global microbatches like the main loss, and reported as the metric `<path>.<name>`.
   */
  addLoss(name: string, value: Tensor): void;
  /** Reports a float32 tensor of any shape, averaged over global microbatches, as the metric `<path>.<name>`. No gradient. */
  metric(name: string, value: Tensor): void;
  /**
   * Sends rows of tokens to this module's `experts` and returns their outputs in the same rows. `rows` is `[n, d]`
   * sorted by expert, `counts` is int32 `[experts]`; rows past the sum of counts come back as zeros. This is where a
   * layer is cut for expert parallelism: the experts may live on other ranks.
   */
  experts(rows: Tensor, counts: Tensor): Tensor;
}

/**
 * A named, pure, differentiable function with a parameter spec. `forward` knows nothing of workers, devices or
 * transports: it is traced once per shape and may use any tfjs op on its inputs.
 */
export interface Module {
  /** What it is, for messages and summaries: `linear`, `moe`, ... */
  readonly kind: string;
  /** Its own parameters; a parameter's path is the module's path and this name. */
  readonly params?: Readonly<Record<string, ParamSpec>>;
  readonly state?: Readonly<Record<string, StateSpec>>;
  /** Modules it runs through `ctx.run`; the name is part of the path. */
  readonly children?: Readonly<Record<string, Module>>;
  /**
   * Modules that it runs through `ctx.experts`, all of the same structure, each from `[rows, d]` to `[rows, d]`. Their
   * paths are `<path>.experts.<i>`. They are compiled apart from the layer and may be sharded over ranks.
   */
  readonly experts?: readonly Module[];
  forward(params: Tensors, inputs: readonly Tensor[], ctx: Context): Tensor | readonly Tensor[];
}

/** An element of the model's sequence: the unit of compilation and of pipeline placement. */
export interface Layer {
  /** First part of the path of everything inside: `embed`, `blocks.0`, `head`. */
  readonly name: string;
  readonly module: Module;
}

/**
 * A sequence of layers and a loss. The first layer takes the batch's inputs; each next one takes the outputs of the one
 * before; the loss takes the last outputs followed by the batch's targets and returns a scalar, the mean over the
 * microbatch's examples or tokens.
 */
export interface Model {
  readonly layers: readonly Layer[];
  readonly loss: Module;
}

/** What a dataset tells the model about a microbatch. Shapes leave the batch dimension out. */
export interface TaskInfo {
  readonly inputs: readonly Signature[];
  readonly targets: readonly Signature[];
  /** Number of token ids, for text. */
  readonly vocabSize?: number;
  /** Number of classes, for labelled data. */
  readonly classes?: number;
}
