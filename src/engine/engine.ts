import type { Tensor } from '@tensorflow/tfjs-core';
import type { HostTensor, Shape } from '../tensor/index.ts';
import type { GraphDType } from './graph.ts';

/** Shape and dtype of an input or output of a compiled function. */
export interface Signature {
  readonly dtype: GraphDType;
  readonly shape: Shape;
}

/**
 * A tensor as the engine holds it: on the host or on the device. Opaque to everyone else; `Engine.download` reads it.
 * A handle is valid until `Engine.release` or until it is passed as `into` of a later run.
 */
export interface DeviceTensor extends Signature {
  /** Bytes the value takes where it lives. */
  readonly byteLength: number;
  /** Where the value lives. Values on the host can be read without a copy by `Engine.host`. */
  readonly location: 'host' | 'device';
}

/** A pure function of tensors, written in tfjs ops. */
export type TensorFunction = (...inputs: Tensor[]) => Tensor | readonly Tensor[];

/** What compiling cost and made. Times in milliseconds. */
export interface CompileStatistics {
  readonly traces: number;
  readonly executables: number;
  /** Compilations answered from the cache: equal layers share one executable. */
  readonly cacheHits: number;
  readonly traceMs: number;
  readonly loweringMs: number;
  readonly sessionMs: number;
}

/** Bytes that crossed between host and device since the engine was made; all zero on a CPU device. */
export interface TransferStatistics {
  readonly toDevice: number;
  readonly toHost: number;
}

/** A compiled function of fixed shapes. */
export interface Executable {
  readonly inputs: readonly Signature[];
  readonly outputs: readonly Signature[];
  /** Floating-point operations of one run, counted from the graph (a multiply-add is two). */
  readonly flops: number;
  /**
   * Runs the function. Inputs are not changed and stay valid. With `into`, outputs are written to those tensors (a null
   * asks for a fresh one); an `into` tensor must not be an input of the same run.
   * @throws EngineError if shapes or dtypes do not fit, naming the input.
   */
  run(inputs: readonly DeviceTensor[], into?: readonly (DeviceTensor | null)[]): Promise<DeviceTensor[]>;
  /**
   * The same, but the run may wait until one of its results is looked at, so that several become one. Outputs get memory of the
   * engine's. Null where the engine does not put runs off, or not this one: then use `run`. @throws EngineError as `run` does
   */
  defer?(inputs: readonly DeviceTensor[]): DeviceTensor[] | null;
  /** The ONNX model, ready to be written to a file. @throws EngineError on engines that have no such form. */
  onnx(): Uint8Array;
}

/** A value among those that come to be in a sequence of runs: one that is given, or an output of one of its calls. */
export type SequenceValue = { readonly given: number } | { readonly call: number; readonly output: number };

/** Executables that run one after another. */
export interface Sequence {
  readonly given: readonly Signature[];
  readonly calls: readonly { readonly executable: Executable; readonly inputs: readonly SequenceValue[] }[];
  readonly outputs: readonly SequenceValue[];
}

/** Identifies a value of a phased function within one microbatch's environment. */
export type SlotId = number;

/**
 * A place where a layer leaves its executables: rows of tokens go to experts (here or on other ranks) and come back.
 * `rows` is `[n, d]`, sorted by expert; `counts` is int32 `[experts]`; rows past the sum of counts are not processed
 * and come back as zeros. `result` is `[n, d]`.
 */
export interface ExpertCall {
  /** Path of the module that called, relative to the layer, e.g. `moe`; its experts are `<path>.experts.<i>`. */
  readonly path: string;
  readonly experts: number;
  readonly rows: SlotId;
  readonly counts: SlotId;
  readonly result: SlotId;
}

/** One executable of a phased function, with the slots it reads and writes. */
export interface Phase {
  readonly kind: 'forward' | 'backward' | 'backward-weight';
  readonly executable: Executable;
  readonly reads: readonly SlotId[];
  readonly writes: readonly SlotId[];
  /** Slots that no later phase reads: free them (or reuse their buffers) once this phase has run. */
  readonly frees: readonly SlotId[];
  /**
   * The expert call that must be served after this phase and before the next. For a forward phase the experts run
   * forward on `rows`; for a backward phase `rows` are the cotangents of the expert outputs, and `result` receives the
   * cotangents of the expert inputs (`counts` is the forward's).
   */
  readonly call?: ExpertCall;
}

/**
 * A differentiable function cut into executables: at expert calls, between forward and backward, and (with
 * `splitWeight`) between the gradient of the inputs and the gradient of the parameters. All phases come from one trace,
 * so any subset of cuts computes the same bits.
 */
export interface PhasedFunction {
  /** In order of execution: forward phases, then backward ones, then at most one backward-weight. */
  readonly phases: readonly Phase[];
  /** Slots of the function's inputs, in order. Never freed by a phase. */
  readonly inputs: readonly SlotId[];
  /** Slots of the function's outputs, in order. */
  readonly outputs: readonly SlotId[];
  /** Slots that take the cotangents of the outputs (null where an output is not differentiable or has no effect). */
  readonly cotangents: readonly (SlotId | null)[];
  /** Slots of the gradient for each input; null for inputs that gradients were not asked for, or that get none. */
  readonly gradients: readonly (SlotId | null)[];
  readonly slots: ReadonlyMap<SlotId, Signature>;
  /** Bytes kept from forward to backward for one microbatch, inputs not counted. */
  readonly residualBytes: number;
}

/** How to differentiate and cut. */
export interface VjpOptions {
  /** For each input, whether its gradient is wanted. */
  readonly wrt: readonly boolean[];
  /**
   * For each output, whether it takes a cotangent. Outputs that do not are forward results only (metrics, counts,
   * state contributions).
   */
  readonly differentiable: readonly boolean[];
  /**
   * `none` keeps matmul-like and softmax results and recomputes cheap nodes in the backward; `full` keeps only the
   * inputs. A function decides by module path (layer-relative path of the node). Default `none`.
   */
  readonly remat?: 'none' | 'full' | ((path: string) => 'none' | 'full');
  /** Cut the parameter gradients off into a last `backward-weight` phase; `weights` tells which inputs they are of. */
  readonly splitWeight?: readonly boolean[];
  /**
   * One executable for forward and backward together: for the layer that ends in the loss, whose backward follows at
   * once. The cotangents are then inputs of the forward phases (there is a single phase of kind `forward`, or as many
   * as expert calls need), and there are no backward phases.
   */
  readonly fused?: boolean;
}

/** Options of compilation that any function takes. */
export interface CompileOptions {
  /** Prefix of module paths in errors and profiles. */
  readonly name?: string;
}

/**
 * Compiles traced functions and runs them on one device. Values on the device stay there between runs. One engine
 * serves one thread; it is not shared.
 */
export interface Engine {
  /** `onnx` or `tfjs`. */
  readonly kind: string;
  /** As in the config: `cpu`, `cuda:0`, `webgpu`, ... */
  readonly device: string;
  /** Engine, library and provider versions: exactness is promised for one such string. */
  readonly version: string;
  readonly threads: number;
  compile(fn: TensorFunction, signature: readonly Signature[], options?: CompileOptions): Promise<Executable>;
  vjp(
    fn: TensorFunction,
    signature: readonly Signature[],
    options: VjpOptions & CompileOptions,
  ): Promise<PhasedFunction>;
  /**
   * Makes one executable of a sequence of this engine's: inputs are what is given. It computes the same bits and spares what calls
   * cost. Null where the engine cannot, or runs must be told apart. Absent: it never can.
   */
  sequence?(sequence: Sequence): Executable | null;
  /** Moves a host tensor to where the engine computes; on a CPU no copy is made, so do not write to it afterwards. */
  upload(tensor: HostTensor): DeviceTensor;
  /** Reads a value back. On a CPU it is the same memory, without a copy. */
  download(tensor: DeviceTensor): Promise<HostTensor>;
  /** The memory of a value that lives on the host, or null if it lives on a device. Never copies. */
  host(tensor: DeviceTensor): HostTensor | null;
  /**
   * Gives a value's memory back. Using it afterwards is an error. Memory that `host` or `download` has shown is not used for
   * other values, since whoever has seen it may still look at it; with `unseen` the caller says that nobody will.
   */
  release(tensor: DeviceTensor, unseen?: boolean): void;
  /** Whether a run that was put off makes or reads the value: its memory must not be written to. */
  inUse?(tensor: DeviceTensor): boolean;
  compileStatistics(): CompileStatistics;
  transferStatistics(): TransferStatistics;
  /** Releases sessions and device memory. */
  dispose(): Promise<void>;
}

/** What the config's `engine` section says. */
export interface EngineOptions {
  readonly kind: 'onnx' | 'tfjs';
  /** `cpu`, `cuda:N`, `webgpu`, `dml`, `coreml`; for `tfjs` a tfjs backend: `cpu`, `wasm`, `webgpu`, `node`, `node-gpu`. */
  readonly device: string;
  /** Intra-op threads. */
  readonly threads: number;
}
