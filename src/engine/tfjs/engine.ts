import type { Tensor } from '@tensorflow/tfjs-core';
import type { HostTensor } from '../../tensor/index.ts';
import type {
  CompileOptions,
  CompileStatistics,
  DeviceTensor,
  Engine,
  EngineOptions,
  Executable,
  PhasedFunction,
  Signature,
  TensorFunction,
  TransferStatistics,
  VjpOptions,
} from '../engine.ts';
import { EngineError, signatureText } from '../errors.ts';
import type { Graph } from '../graph.ts';
import { graphFlops } from '../onnx/flops.ts';
import { graphKey } from '../onnx/key.ts';
import { assemblePhased, traceFunction, tracePhases } from '../passes/index.ts';
import { signatureOf, tf, withBackend } from '../trace/index.ts';
import { startBackend, type TfjsBackend } from './backends.ts';
import { disposeConstants, type Interpretation, interpret, prepare } from './interpret.ts';
import { TfjsTensor } from './tensor.ts';

/**
 * The engine that runs graphs op by op on a tfjs backend: the reference that the ONNX engine is tested against, and the
 * way to whatever hardware tfjs has a backend for.
 */
export class TfjsEngine implements Engine {
  readonly kind = 'tfjs';
  readonly device: string;
  readonly version: string;
  readonly threads = 1;
  readonly #backend: TfjsBackend;
  readonly #interpretations = new Map<string, Interpretation>();
  readonly #statistics = { traces: 0, executables: 0, cacheHits: 0, traceMs: 0, loweringMs: 0, sessionMs: 0 };
  readonly #transfers = { toDevice: 0, toHost: 0 };

  constructor(backend: TfjsBackend) {
    this.#backend = backend;
    this.device = backend.device;
    this.version = `tfjs ${tf.version_core} ${backend.device}`;
  }

  async compile(
    fn: TensorFunction,
    signature: readonly Signature[],
    options: CompileOptions = {},
  ): Promise<Executable> {
    const { graph, traceMs } = traceFunction(fn, signature, options);
    this.#count(traceMs);
    return this.compileGraph(graph, options.name ?? '');
  }

  async vjp(
    fn: TensorFunction,
    signature: readonly Signature[],
    options: VjpOptions & CompileOptions,
  ): Promise<PhasedFunction> {
    const { phased, traceMs } = tracePhases(fn, signature, options);
    this.#count(traceMs);
    return assemblePhased(phased, options.name ?? '', (...phase) => this.compileGraph(...phase));
  }

  /** Compiles a graph; equal ones share constants. Errors call the executable `name`, and are of the module `path`. */
  async compileGraph(graph: Graph, name: string, path = name): Promise<Executable> {
    const key = graphKey(graph);
    let interpretation = this.#interpretations.get(key);
    if (interpretation) this.#statistics.cacheHits++;
    else {
      const begin = performance.now();
      interpretation = withBackend(this.#backend.backend, () => prepare(graph, name));
      this.#statistics.loweringMs += performance.now() - begin;
      this.#statistics.executables++;
      this.#interpretations.set(key, interpretation);
    }
    return new TfjsExecutable({ ...interpretation, name, path }, this.#backend);
  }

  upload({ dtype, shape, data }: HostTensor): DeviceTensor {
    if (dtype !== 'float32' && dtype !== 'int32' && dtype !== 'bool')
      throw new EngineError(
        `a ${dtype} tensor of shape [${shape}] cannot be uploaded; engines compute with float32, int32 and bool`,
      );
    if (!this.#backend.onHost) this.#transfers.toDevice += data.byteLength;
    const tensor = withBackend(this.#backend.backend, () =>
      tf.keep(tf.tensor(data as Float32Array, [...shape], dtype)),
    );
    return this.#handle(tensor);
  }

  async download(tensor: DeviceTensor): Promise<HostTensor> {
    const { dtype, shape, byteLength } = tensor;
    if (!this.#backend.onHost) this.#transfers.toHost += byteLength;
    return { dtype, shape, data: (await tensorOf(tensor, 'download').data()) as Float32Array };
  }

  host(tensor: DeviceTensor): HostTensor | null {
    const value = tensorOf(tensor, 'read');
    // Only the JavaScript backend shows its memory; all others copy.
    if (this.device !== 'cpu') return null;
    return { dtype: tensor.dtype, shape: tensor.shape, data: value.dataSync() as Float32Array };
  }

  release(tensor: DeviceTensor): void {
    tensorOf(tensor, 'release').dispose();
    (tensor as TfjsTensor).tensor = null;
  }

  compileStatistics(): CompileStatistics {
    return { ...this.#statistics };
  }

  transferStatistics(): TransferStatistics {
    return { ...this.#transfers };
  }

  async dispose(): Promise<void> {
    for (const interpretation of this.#interpretations.values()) disposeConstants(interpretation);
    this.#interpretations.clear();
  }

  #count(traceMs: number): void {
    this.#statistics.traces++;
    this.#statistics.traceMs += traceMs;
  }

  #handle(tensor: Tensor): TfjsTensor {
    return new TfjsTensor(tensor, this.device === 'cpu' ? 'host' : 'device');
  }
}

class TfjsExecutable implements Executable {
  readonly inputs: readonly Signature[];
  readonly outputs: readonly Signature[];
  readonly flops: number;
  readonly #interpretation: Interpretation;
  readonly #backend: TfjsBackend;

  constructor(interpretation: Interpretation, backend: TfjsBackend) {
    const { graph } = interpretation;
    this.#interpretation = interpretation;
    this.#backend = backend;
    this.inputs = graph.inputs.map((id) => signatureOf(graph, id));
    this.outputs = graph.outputs.map((id) => signatureOf(graph, id));
    this.flops = graphFlops(graph);
  }

  async run(inputs: readonly DeviceTensor[], into: readonly (DeviceTensor | null)[] = []): Promise<DeviceTensor[]> {
    const { name, graph } = this.#interpretation;
    const tensors = inputs.map((input) => tensorOf(input, 'use'));
    check(name, 'input', this.inputs, inputs);
    into.forEach((target, i) => {
      if (target === null) return;
      check(name, 'into', [this.outputs[i] as Signature], [target]);
      if (inputs.includes(target)) throw new EngineError(`"${name}": into ${i} is an input of the same run`);
    });
    // Random keys are read on the host, which a GPU backend cannot do without waiting.
    const keys = new Map<number, ArrayLike<number>>();
    if (!this.#backend.onHost)
      for (const { kernel, inputs: ids } of graph.nodes) {
        const at = kernel === 'PlexusUniform' ? graph.inputs.indexOf(ids[0] as number) : -1;
        if (at >= 0) keys.set(ids[0] as number, await (tensors[at] as Tensor).data());
      }
    const results = withBackend(this.#backend.backend, () =>
      this.#apart(tensors, interpret(this.#interpretation, tensors, keys)).map((tensor) => tf.keep(tensor)),
    );
    return results.map((tensor, i) => {
      const target = into[i] as TfjsTensor | null | undefined;
      return target == null ? this.#fresh(tensor) : this.#write(target, tensor);
    });
  }

  onnx(): Uint8Array {
    throw new EngineError(
      `"${this.#interpretation.name}": the tfjs engine has no ONNX models; use engine.kind onnx to export`,
    );
  }

  /**
   * On the JavaScript backend a reshape, a clone or a slice shares the memory of what it was made from, and a cast to
   * float32 leaves bytes or integers in place. Outputs may be written to later, so each gets memory of its own dtype
   * that is neither an input's nor another output's.
   */
  #apart(inputs: readonly Tensor[], outputs: readonly Tensor[]): readonly Tensor[] {
    if (this.#backend.device !== 'cpu') return outputs;
    const known = new Set([...inputs, ...this.#interpretation.constants.values()].map((x) => x.dataSync().buffer));
    return outputs.map((output) => {
      const { dtype, shape } = output;
      const data = output.dataSync();
      const Data = dtype === 'float32' ? Float32Array : dtype === 'int32' ? Int32Array : Uint8Array;
      if (data instanceof Data && !known.has(data.buffer)) {
        known.add(data.buffer);
        return output;
      }
      const copy = tf.tensor(Data.from(data), shape, dtype);
      output.dispose();
      return copy;
    });
  }

  #fresh(tensor: Tensor): TfjsTensor {
    return new TfjsTensor(tensor, this.#backend.device === 'cpu' ? 'host' : 'device');
  }

  /** On the JavaScript backend the numbers go into the memory that the caller may hold; elsewhere the handle moves. */
  #write(target: TfjsTensor, tensor: Tensor): TfjsTensor {
    // tfjs shows bools as a copy: writing into that would change nothing.
    if (target.location === 'host' && target.dtype !== 'bool') {
      (tensorOf(target, 'write').dataSync() as Float32Array).set(tensor.dataSync());
      tensor.dispose();
      return target;
    }
    target.tensor?.dispose();
    target.tensor = tensor;
    return target;
  }
}

function tensorOf(tensor: DeviceTensor, action: string): Tensor {
  if (!(tensor instanceof TfjsTensor)) throw new EngineError(`cannot ${action} a tensor that is not of a tfjs engine`);
  if (tensor.tensor === null)
    throw new EngineError(`cannot ${action} a ${signatureText(tensor)} tensor that was released`);
  return tensor.tensor;
}

function check(name: string, what: string, expected: readonly Signature[], actual: readonly Signature[]): void {
  if (expected.length !== actual.length)
    throw new EngineError(`"${name}" takes ${expected.length} ${what}s, got ${actual.length}`);
  expected.forEach((signature, i) => {
    const text = signatureText(actual[i] as Signature);
    if (text !== signatureText(signature))
      throw new EngineError(`"${name}": ${what} ${i} is ${text}, expected ${signatureText(signature)}`);
  });
}

/**
 * Makes an engine on an installed tfjs backend.
 * @throws EngineError if the backend is unknown, not installed or does not start, saying what to install.
 */
export async function createTfjsEngine(options: Omit<EngineOptions, 'kind'>): Promise<TfjsEngine> {
  return new TfjsEngine(await startBackend(options.device));
}
