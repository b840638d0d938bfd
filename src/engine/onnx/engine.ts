import { availableParallelism } from 'node:os';
import type { InferenceSession, Tensor } from 'onnxruntime-node';
import ort from 'onnxruntime-node';
import type { HostTensor } from '../../tensor/index.ts';
import type {
  CompileOptions,
  CompileStatistics,
  DeviceTensor,
  Engine,
  EngineOptions,
  Executable,
  PhasedFunction,
  Sequence,
  Signature,
  TensorFunction,
  TransferStatistics,
  VjpOptions,
} from '../engine.ts';
import { EngineError, signatureText } from '../errors.ts';
import type { Graph, GraphDType } from '../graph.ts';
import {
  assemblePhased,
  deadCode,
  joinSequence,
  optimize,
  optimizeVjp,
  type PhasedGraphs,
  partition,
} from '../passes/index.ts';
import { trace, traceVjp } from '../trace/index.ts';
import { DeferredRuns } from './deferred.ts';
import { deviceOptions, deviceSupport, type OnnxDevice, parseDevice, startHint } from './devices.ts';
import { byteLength, type CompiledModel, type Host, OnnxExecutable, runtimeMessage } from './executable.ts';
import { graphFlops } from './flops.ts';
import { InPlaceSession } from './in-place.ts';
import { graphKey, vjpKey } from './key.ts';
import { lower } from './lowering/index.ts';
import { type FinishedModel, sameShape } from './model.ts';
import { identityModel, Residence } from './residence.ts';
import { BufferPool, OnnxTensor } from './tensor.ts';

/** Memory of released values that an engine keeps for later ones, in bytes. */
const POOL_BYTES = 256 * 2 ** 20;

/** What sequences of runs that were put off are called. */
const JOINED = 'joined runs';

/** Settings of the ONNX engine that are not in the config. */
export interface OnnxOptions extends Omit<EngineOptions, 'kind'> {
  /** Writes ONNX Runtime's profile of every session to files of this prefix; see `endProfiling`. */
  readonly profile?: string;
}

/** The ONNX engine; see `Engine`. */
export class OnnxEngine implements Engine, Host {
  readonly kind = 'onnx';
  readonly device: string;
  readonly version: string;
  readonly threads: number;
  readonly pool = new BufferPool(POOL_BYTES);
  readonly residence: Residence | null;
  readonly deferred: DeferredRuns | null;
  private readonly on: OnnxDevice;
  private readonly profile: string | undefined;
  private readonly models = new Map<string, Promise<Omit<CompiledModel, 'path'>>>();
  private readonly optimized = new Map<string, Graph>();
  private readonly partitions = new Map<string, PhasedGraphs>();
  private readonly sessions: (InferenceSession | InPlaceSession)[] = [];
  private statistics = { traces: 0, executables: 0, cacheHits: 0, traceMs: 0, loweringMs: 0, sessionMs: 0 };
  private transfers = { toDevice: 0, toHost: 0 };
  private disposed = false;

  constructor(device: OnnxDevice, threads: number, profile?: string) {
    this.on = device;
    this.device = device.name;
    this.threads = threads;
    this.profile = profile;
    this.version = `onnxruntime-node ${ort.env.versions.node ?? ort.env.versions.common} ${device.provider}`;
    // A profile is to show each run by itself.
    this.deferred =
      device.provider === 'cpu' && profile === undefined
        ? new DeferredRuns(
            (graph) => this.joinedRuns(graph),
            (tensor) => this.free(tensor),
          )
        : null;
    this.residence = device.resident ? new Residence((bytes, outputs) => this.session(bytes, outputs)) : null;
  }

  /** Compiles a graph; equal ones share a session. Errors call the executable `name`, and are of the module `path`. */
  async compileGraph(graph: Graph, name: string, path = name): Promise<Executable> {
    if (this.disposed) throw new EngineError(`cannot compile "${name}": the engine was disposed`);
    const key = graphKey(graph);
    let model = this.models.get(key);
    if (model) this.statistics.cacheHits++;
    else {
      model = this.build(graph, name);
      this.models.set(key, model);
      model.catch(() => this.models.delete(key));
    }
    return new OnnxExecutable({ ...(await model), name, path }, this);
  }

  async compile(
    fn: TensorFunction,
    signature: readonly Signature[],
    options: CompileOptions = {},
  ): Promise<Executable> {
    const graph = this.traced(() => {
      const raw = trace(fn, signature, options);
      return this.once(this.optimized, graphKey(raw), () => optimize(raw));
    });
    return this.compileGraph(graph, options.name ?? 'function');
  }

  async vjp(
    fn: TensorFunction,
    signature: readonly Signature[],
    options: VjpOptions & CompileOptions,
  ): Promise<PhasedFunction> {
    const phased = this.traced(() => {
      const raw = traceVjp(fn, signature, options);
      return this.once(this.partitions, vjpKey(raw, options), () => partition(optimizeVjp(raw), options));
    });
    return assemblePhased(phased, options.name ?? 'function', (...phase) => this.compileGraph(...phase));
  }

  /** Passes take as long as the trace: equal layers go through them once. */
  private once<T>(cache: Map<string, T>, key: string, make: () => T): T {
    let value = cache.get(key);
    if (value === undefined) {
      value = make();
      cache.set(key, value);
    }
    return value;
  }

  /** Counts a trace with its passes. */
  private traced<T>(make: () => T): T {
    const begin = performance.now();
    const result = make();
    this.statistics.traces++;
    this.statistics.traceMs += performance.now() - begin;
    return result;
  }

  upload(tensor: HostTensor): DeviceTensor {
    const { dtype, shape } = tensor;
    if (dtype !== 'float32' && dtype !== 'int32' && dtype !== 'bool')
      throw new EngineError(
        `a ${dtype} tensor of shape [${shape}] cannot be uploaded; engines compute with float32, int32 and bool`,
      );
    const bytes = byteLength({ dtype, shape });
    if (tensor.data.byteLength !== bytes)
      throw new EngineError(
        `a tensor of ${signatureText({ dtype, shape })} takes ${bytes} bytes, but its data has ${tensor.data.byteLength}`,
      );
    // ONNX Runtime refuses shared memory as an input.
    const shared = typeof SharedArrayBuffer !== 'undefined' && tensor.data.buffer instanceof SharedArrayBuffer;
    const data = shared ? tensor.data.slice() : tensor.data;
    const value = new ort.Tensor(dtype, data as Float32Array, shape);
    return new OnnxTensor(dtype, shape, bytes, this.residence ? 'device' : 'host', value, false);
  }

  async download(tensor: DeviceTensor): Promise<HostTensor> {
    const handle = this.own(tensor, 'download');
    if (!this.residence) return this.host(tensor) as HostTensor;
    const value = await this.residence.fetch(handle);
    return { dtype: handle.dtype, shape: handle.shape, data: value.data as Float32Array };
  }

  host(tensor: DeviceTensor): HostTensor | null {
    const handle = this.own(tensor, 'read');
    if (this.residence) return null;
    // Whoever is shown the memory may write to it.
    if (this.deferred?.reads(handle)) this.deferred.flush();
    handle.recyclable = false;
    return { dtype: handle.dtype, shape: handle.shape, data: (handle.value as Tensor).data as Float32Array };
  }

  release(tensor: DeviceTensor, unseen = false): void {
    if (unseen && tensor instanceof OnnxTensor) tensor.recyclable = tensor.ours;
    if (tensor instanceof OnnxTensor && !tensor.dead && this.deferred?.release(tensor)) return;
    this.free(this.own(tensor, 'release'));
  }

  inUse(tensor: DeviceTensor): boolean {
    const { deferred } = this;
    if (deferred === null || !(tensor instanceof OnnxTensor)) return false;
    return tensor.waiting !== null || deferred.reads(tensor);
  }

  private free(handle: OnnxTensor): void {
    const value = handle.value as Tensor;
    handle.value = null;
    if (handle.recyclable) this.pool.give((value.data as Float32Array).buffer as ArrayBuffer);
    else if (value.location === 'gpu-buffer') value.dispose();
  }

  compileStatistics(): CompileStatistics {
    return { ...this.statistics };
  }

  transferStatistics(): TransferStatistics {
    return this.residence
      ? { toDevice: this.residence.toDevice, toHost: this.residence.toHost }
      : { ...this.transfers };
  }

  countRun(toDevice: number, toHost: number): void {
    if (this.on.provider === 'cpu') return;
    this.transfers.toDevice += toDevice;
    this.transfers.toHost += toHost;
  }

  /** Ends ONNX Runtime's profiles, which writes their files. */
  endProfiling(): void {
    for (const session of this.sessions) session.endProfiling();
  }

  async dispose(): Promise<void> {
    if (this.disposed) return;
    // Nobody has looked at what still waits.
    this.deferred?.drop();
    this.disposed = true;
    await Promise.allSettled(this.models.values());
    this.models.clear();
    this.pool.clear();
    for (const session of this.sessions) await session.release();
    this.sessions.length = 0;
  }

  /** Runs the smallest model there is, so that a device that does not work is found before anything else starts. */
  async probe(): Promise<void> {
    const session = await this.session(identityModel('float32', 1), 'host');
    await session.run({ [session.inputNames[0] as string]: new ort.Tensor('float32', Float32Array.of(1), [1]) });
  }

  private async build(graph: Graph, name: string): Promise<Omit<CompiledModel, 'path'>> {
    const lowered = this.lowered(graph, name);
    const outputs = graph.outputs.map((id) => signatureOf(graph, id));
    const middle = performance.now();
    const places = Object.fromEntries(
      lowered.outputs.map(
        (output, i) => [output, byteLength(outputs[i] as Signature) > 0 ? 'gpu-buffer' : 'cpu'] as const,
      ),
    );
    const session =
      (this.on.provider === 'cpu' ? this.inPlace(lowered.bytes, name) : null) ??
      (await this.session(lowered.bytes, 'device', name, places));
    this.statistics.sessionMs += performance.now() - middle;
    return this.compiled(graph, name, lowered, session);
  }

  sequence(sequence: Sequence): Executable | null {
    const executables = sequence.calls.map(({ executable }) => executable);
    const joins = (executable: Executable) => executable instanceof OnnxExecutable && executable.runsInPlace;
    if (this.deferred === null || !executables.every(joins)) return null;
    const graphs = executables.map((executable) => (executable as OnnxExecutable).graph);
    return this.joinedRuns(deadCode(joinSequence(sequence, graphs)));
  }

  /** The session of a sequence of runs. */
  private joinedRuns(graph: Graph): OnnxExecutable {
    const lowered = this.lowered(graph, JOINED);
    const begin = performance.now();
    const session = this.inPlace(lowered.bytes, JOINED);
    if (session === null) throw new EngineError('runs that were put off need a session that runs in place');
    this.statistics.sessionMs += performance.now() - begin;
    return new OnnxExecutable({ ...this.compiled(graph, JOINED, lowered, session), path: JOINED }, this);
  }

  private lowered(graph: Graph, name: string): FinishedModel {
    const begin = performance.now();
    const lowered = lower(graph, name, { provider: this.on.provider, threads: this.threads });
    this.statistics.loweringMs += performance.now() - begin;
    return lowered;
  }

  private compiled(
    graph: Graph,
    name: string,
    lowered: FinishedModel,
    session: CompiledModel['session'],
  ): Omit<CompiledModel, 'path'> {
    this.statistics.executables++;
    const outputs = graph.outputs.map((id) => signatureOf(graph, id));
    const target = { provider: this.on.provider, threads: this.threads, exactShapes: true };
    return {
      name,
      id: this.statistics.executables,
      graph,
      session,
      inputNames: lowered.inputs,
      outputNames: lowered.outputs,
      inputs: graph.inputs.map((id) => signatureOf(graph, id)),
      outputs,
      writtenShapes: lowered.outputShapes.map((shape, i) => (sameShape(shape, outputs[i]?.shape ?? []) ? null : shape)),
      export: () => lower(graph, name, target).bytes,
      flops: graphFlops(graph),
    };
  }

  /**
   * Graph optimisation is off: our passes fuse before a graph is cut, and what ONNX Runtime would fuse after could
   * change bits with the place of the cut.
   */
  private async session(
    bytes: Uint8Array,
    outputs: 'host' | 'device',
    name = 'transfer',
    places: Readonly<Record<string, 'cpu' | 'gpu-buffer'>> | undefined = undefined,
  ): Promise<InferenceSession> {
    const options: InferenceSession.SessionOptions = {
      ...this.options(name),
      ...(this.residence && outputs === 'device' ? { preferredOutputLocation: places ?? 'gpu-buffer' } : {}),
    };
    try {
      const session = await ort.InferenceSession.create(bytes, options);
      this.sessions.push(session);
      return session;
    } catch (error) {
      throw this.noSession(name, error);
    }
  }

  /** A session that spares copies of its outputs, where that is possible. */
  private inPlace(bytes: Uint8Array, name: string): InPlaceSession | null {
    try {
      const session = InPlaceSession.create(bytes, this.options(name));
      if (session) this.sessions.push(session);
      return session;
    } catch (error) {
      throw this.noSession(name, error);
    }
  }

  private options(name: string): InferenceSession.SessionOptions {
    return {
      ...deviceOptions(this.on),
      graphOptimizationLevel: 'disabled',
      intraOpNumThreads: this.threads,
      interOpNumThreads: 1,
      executionMode: 'sequential',
      logSeverityLevel: 4,
      // Every session has threads of its own. Those that spin while they wait take the cores of other sessions, of other
      // workers and of this one's sockets: a step with two threads on two busy cores took 132 ms spinning, 79 ms not.
      extra: { session: { intra_op: { allow_spinning: '0' } } },
      ...(this.profile === undefined
        ? {}
        : { enableProfiling: true, profileFilePrefix: `${this.profile}-${name.replaceAll(/\W/g, '_')}` }),
    };
  }

  private noSession(name: string, cause: unknown): EngineError {
    return new EngineError(`"${name}" could not be made into a session on ${this.device}: ${runtimeMessage(cause)}`, {
      path: name,
      cause,
    });
  }

  private own(tensor: DeviceTensor, action: string): OnnxTensor {
    if (!(tensor instanceof OnnxTensor))
      throw new EngineError(`cannot ${action} a tensor that is not of an ONNX engine`);
    if (tensor.value === null)
      throw new EngineError(`cannot ${action} a ${signatureText(tensor)} tensor that was released`);
    return tensor;
  }
}

function signatureOf(graph: Graph, id: number): Signature {
  const { dtype, shape } = graph.values.get(id) as { dtype: GraphDType; shape: readonly number[] };
  return { dtype, shape };
}

/**
 * Makes an ONNX engine on a device.
 * @throws EngineError if the device is not available, naming what to install.
 */
export async function createOnnxEngine(options: OnnxOptions): Promise<OnnxEngine> {
  const device = parseDevice(options.device);
  const { available, problem } = deviceSupport(device);
  if (!available) throw new EngineError(`engine.device ${device.name} is not available: ${problem}`);
  const engine = new OnnxEngine(
    device,
    options.threads > 0 ? options.threads : availableParallelism(),
    options.profile,
  );
  if (device.provider === 'cpu') return engine;
  try {
    await engine.probe();
  } catch (error) {
    await engine.dispose();
    const reason = runtimeMessage(error instanceof EngineError ? error.cause : error);
    throw new EngineError(`engine.device ${device.name} is not available: ${reason}; ${startHint(device)}`, {
      cause: error,
    });
  }
  return engine;
}
