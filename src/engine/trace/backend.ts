import type {
  BackendValues,
  DataType,
  KernelConfig,
  NamedTensorInfoMap,
  Tensor,
  TensorInfo,
} from '@tensorflow/tfjs-core';
import type { Signature } from '../engine.ts';
import { EngineError, placeName, signatureText } from '../errors.ts';
import type { Attr, ValueId } from '../graph.ts';
import { type Attrs, type KernelDefinition, kernelDefinition } from './definition.ts';
import { fullPath } from './path.ts';
import { type ConstantData, graphDType, type Recorder } from './recorder.ts';
import { tf } from './tf.ts';

let active: Recorder | null = null;

/** Whether a trace is being recorded on this thread. */
export function isTracing(): boolean {
  return active !== null;
}

export function recorder(): Recorder {
  if (active === null)
    throw new EngineError(
      `${placeName(fullPath())}: a traced tensor was used after its trace had ended; a traced function must not keep tensors between calls`,
      { path: fullPath() },
    );
  return active;
}

/** A tfjs backend that holds no numbers: buffers stand for values of the graph being recorded. */
class TraceBackend extends tf.KernelBackend {
  #live = 0;
  readonly #refs = new WeakMap<object, number>();

  /** A new buffer that stands for a value. */
  buffer(id: ValueId): object {
    const dataId = {};
    recorder().bind(dataId, id);
    this.#refs.set(dataId, 1);
    this.#live++;
    return dataId;
  }

  override write(values: BackendValues, shape: number[], dtype: DataType): object {
    const trace = recorder();
    return this.buffer(trace.constant(constantData(values), shape, graphDType(dtype, trace.place)));
  }

  override move(dataId: object, values: BackendValues, shape: number[], dtype: DataType, refCount: number): void {
    const trace = recorder();
    trace.bind(dataId, trace.constant(constantData(values), shape, graphDType(dtype, trace.place)));
    this.#refs.set(dataId, refCount);
    this.#live++;
  }

  override readSync(dataId: object): BackendValues {
    const path = active?.place ?? fullPath();
    const id = active?.lookup(dataId);
    const data = id === undefined ? undefined : active?.constantData(id);
    if (data !== undefined) return data;
    const what =
      id === undefined || active === null ? 'a value of an earlier trace' : signatureText(active.signature(id));
    throw new EngineError(
      `${placeName(path)}: the numbers of a traced tensor (${what}) were read (dataSync, data, array or print), but while a function is traced they do not exist yet; use tensor ops such as tf.where, tf.gather or tf.mul by a mask instead of JavaScript on values`,
      { path },
    );
  }

  override read(dataId: object): Promise<BackendValues> {
    return Promise.resolve(this.readSync(dataId));
  }

  override refCount(dataId: object): number {
    return this.#refs.get(dataId) ?? 0;
  }

  override incRef(dataId: object): void {
    this.#refs.set(dataId, this.refCount(dataId) + 1);
  }

  override disposeData(dataId: object, force = false): boolean {
    const left = this.refCount(dataId) - 1;
    this.#refs.set(dataId, left);
    if (left > 0 && !force) return false;
    this.#live--;
    return true;
  }

  override numDataIds(): number {
    return this.#live;
  }

  override memory(): { unreliable: boolean } {
    return { unreliable: true };
  }

  override floatPrecision(): 16 | 32 {
    return 32;
  }

  override epsilon(): number {
    return 1e-7;
  }

  override timerAvailable(): boolean {
    return false;
  }

  override dispose(): void {}
}

function constantData(values: BackendValues): ConstantData {
  if (values instanceof Float32Array || values instanceof Int32Array || values instanceof Uint8Array) return values;
  throw new EngineError(`${placeName(fullPath())}: string tensors cannot be traced`, { path: fullPath() });
}

const backend = new TraceBackend();

/** Name of the tracing backend; unique even when two copies of this module are loaded on one thread. */
export const TRACE_BACKEND = (() => {
  let name = 'plexus-trace';
  for (let copy = 2; tf.engine().backendNames().includes(name); copy++) name = `plexus-trace-${copy}`;
  // The lowest priority: tfjs must never choose it by itself.
  tf.registerBackend(name, () => backend, Number.NEGATIVE_INFINITY);
  return name;
})();

/** Makes a tfjs tensor that stands for a value of the active trace. */
export function tensorOf(id: ValueId): Tensor {
  const { dtype, shape } = recorder().signature(id);
  return tf.engine().makeTensorFromTensorInfo({ dataId: backend.buffer(id), dtype, shape: [...shape] }, backend);
}

/** The parts of tfjs's engine that it keeps private, and that tracing needs. */
interface EngineInternals {
  backendName: string | null;
  backendInstance: unknown;
  startTape(): void;
  endTape(): void;
}

export function engineInternals(): EngineInternals {
  return tf.engine() as unknown as EngineInternals;
}

/** Runs `fn` with a recorder attached and the tracing backend current, and puts everything back as it was. */
export function recording<T>(trace: Recorder, fn: () => T): T {
  if (active !== null) throw new EngineError('a trace was started inside of another one on the same thread');
  const random = Math.random;
  active = trace;
  Math.random = refuseRandom;
  try {
    return withBackend(TRACE_BACKEND, () => {
      let result: { readonly made: T } | undefined;
      // Tidying looks for tensors in all that it is given back: a whole graph, in which there are none.
      tf.engine().tidy('plexus trace', () => {
        result = { made: fn() };
      });
      return (result as unknown as { readonly made: T }).made;
    });
  } finally {
    Math.random = random;
    active = null;
  }
}

/** tf.randomUniform, tf.dropout and the like draw while tracing: the graph would hold the same numbers for ever. */
function refuseRandom(): never {
  throw new EngineError(
    `${placeName(fullPath())}: random numbers were drawn while tracing (tf.randomUniform, tf.dropout, Math.random), which would be the same in every step; use ctx.uniform, or give the tfjs op a seed if fixed numbers are meant`,
    { path: fullPath() },
  );
}

/**
 * Runs `fn` with a tfjs backend that has been started, and puts the previous one back. Both at once, without a promise:
 * so it can be used between the steps of other users of tfjs on this thread.
 */
export function withBackend<T>(name: string, fn: () => T): T {
  const engine = engineInternals();
  const previous = { name: engine.backendName, instance: engine.backendInstance };
  const instance = tf.findBackend(name);
  if (instance == null) throw new EngineError(`the tfjs backend ${name} has not been started`);
  engine.backendName = name;
  engine.backendInstance = instance;
  try {
    return fn();
  } finally {
    engine.backendName = previous.name;
    engine.backendInstance = previous.instance;
  }
}

type KernelInputs = Record<string, TensorInfo | undefined> | readonly TensorInfo[];

/** Records one kernel call and returns its outputs as tfjs sees them. */
export function record(
  kernel: KernelDefinition,
  given: KernelInputs,
  attrs: Readonly<Record<string, unknown>>,
): TensorInfo[] {
  const trace = recorder();
  const tensors = Array.isArray(given)
    ? (given as readonly TensorInfo[])
    : (kernel.inputs as readonly string[]).map((name) => (given as Record<string, TensorInfo>)[name] as TensorInfo);
  const inputs = tensors.map((tensor) => trace.resolve(tensor));
  const signatures = inputs.map((id) => trace.signature(id));
  const clean = cleanAttrs(attrs);
  const inferred = inferChecked(kernel, signatures, clean, trace.place);
  return trace
    .node(kernel.kernel, inputs, inferred.attrs ?? clean, inferred.outputs)
    .map((id, i) => ({ dataId: backend.buffer(id), ...mutable(inferred.outputs[i] as Signature) }));
}

function inferChecked(kernel: KernelDefinition, inputs: readonly Signature[], attrs: Attrs, path: string) {
  try {
    return kernel.infer(inputs, attrs);
  } catch (error) {
    if (error instanceof EngineError && error.path !== '') throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new EngineError(`${placeName(path)}: ${kernel.kernel}(${inputs.map(signatureText).join(', ')}): ${reason}`, {
      path,
      cause: error,
    });
  }
}

function mutable(signature: Signature): { dtype: DataType; shape: number[] } {
  return { dtype: signature.dtype, shape: [...signature.shape] };
}

/** Attributes without undefined entries; anything that is not data is dropped. */
function cleanAttrs(attrs: Readonly<Record<string, unknown>>): Attrs {
  const out: Record<string, Attr> = {};
  for (const [key, value] of Object.entries(attrs))
    if (value !== undefined && typeof value !== 'function') out[key] = value as Attr;
  return out;
}

/** Registers a kernel of the tracing backend that records a node of the same name. */
export function traceKernel(kernel: string): void {
  const definition = kernelDefinition(kernel) as KernelDefinition;
  register(kernel, (inputs, attrs) => {
    const outputs = record(definition, inputs, attrs);
    return outputs.length === 1 ? (outputs[0] as TensorInfo) : outputs;
  });
}

/** Registers a kernel of the tracing backend that is written as other tfjs ops, so that no graph contains it. */
export function traceComposite(
  kernel: string,
  compose: (inputs: Readonly<Record<string, Tensor>>, attrs: Readonly<Record<string, unknown>>) => Tensor | Tensor[],
): void {
  register(kernel, (inputs, attrs) => {
    const given = Object.values(inputs) as Tensor[];
    const made = compose(inputs as Record<string, Tensor>, attrs);
    // An output must be a tensor of its own, or the tape would hold a node whose output is its input.
    const own = (tensor: Tensor) => (given.includes(tensor) ? alias(tensor) : tensor);
    return Array.isArray(made) ? made.map(own) : own(made);
  });
}

function register(
  kernelName: string,
  run: (inputs: KernelInputs, attrs: Readonly<Record<string, unknown>>) => TensorInfo | TensorInfo[],
): void {
  const config: KernelConfig = {
    kernelName,
    backendName: TRACE_BACKEND,
    kernelFunc: ({ inputs, attrs }) => run(inputs as NamedTensorInfoMap, (attrs ?? {}) as Record<string, unknown>),
  };
  tf.registerKernel(config);
}

/** A view of the same buffer: what `Identity` returns on every tfjs backend. */
export function alias(tensor: TensorInfo): TensorInfo {
  const trace = recorder();
  const id = trace.resolve(tensor);
  return { dataId: backend.buffer(id), shape: tensor.shape, dtype: tensor.dtype };
}

/** Registers a kernel that no engine can run, so that meeting it is an error that says where and with which shapes. */
export function traceUnsupported(kernel: string): void {
  register(kernel, (inputs) => {
    const path = recorder().place;
    const shapes = Object.values(inputs)
      .filter((input) => input !== undefined)
      .map((input) => signatureText(input as TensorInfo));
    throw new EngineError(
      `${placeName(path)}: the tfjs kernel ${kernel}(${shapes.join(', ')}) has no lowering; write it with other tfjs ops`,
      { path },
    );
  });
}
