import { availableParallelism } from 'node:os';
import type { Tensor } from 'onnxruntime-node';
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
import type { Graph } from '../graph.ts';
import { deadCode, joinSequence } from '../passes/index.ts';
import { Compiler } from './compiler.ts';
import { DeferredRuns } from './deferred.ts';
import { deviceSupport, type OnnxDevice, parseDevice, startHint } from './devices.ts';
import { byteLength, type Host, OnnxExecutable, runtimeMessage } from './executable.ts';
import { identityModel, Residence } from './residence.ts';
import { Sessions } from './sessions.ts';
import { BufferPool, OnnxTensor } from './tensor.ts';

/** Memory of released values that an engine keeps for later ones, in bytes. */
const POOL_BYTES = 256 * 2 ** 20;

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
  private readonly compiler: Compiler;
  private readonly sessions: Sessions;
  private transfers = { toDevice: 0, toHost: 0 };
  private disposed = false;

  constructor(device: OnnxDevice, threads: number, profile?: string) {
    this.on = device;
    this.device = device.name;
    this.threads = threads;
    this.sessions = new Sessions(device, threads, profile);
    this.compiler = new Compiler(this, device, threads, this.sessions);
    this.version = `onnxruntime-node ${ort.env.versions.node ?? ort.env.versions.common} ${device.provider}`;
    // A profile is to show each run by itself.
    this.deferred =
      device.provider === 'cpu' && profile === undefined
        ? new DeferredRuns(
            (graph) => this.compiler.joinedRuns(graph),
            (tensor) => this.free(tensor),
          )
        : null;
    this.residence = device.resident ? new Residence((bytes, outputs) => this.sessions.create(bytes, outputs)) : null;
  }

  /** Compiles a graph; equal ones share a session. Errors call the executable `name`, and are of the module `path`. */
  compileGraph(graph: Graph, name: string, path = name): Promise<Executable> {
    return this.compiler.compileGraph(graph, name, path);
  }

  compile(fn: TensorFunction, signature: readonly Signature[], options: CompileOptions = {}): Promise<Executable> {
    return this.compiler.compile(fn, signature, options);
  }

  vjp(
    fn: TensorFunction,
    signature: readonly Signature[],
    options: VjpOptions & CompileOptions,
  ): Promise<PhasedFunction> {
    return this.compiler.vjp(fn, signature, options);
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
    return this.compiler.statistics();
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
    this.sessions.endProfiling();
  }

  async dispose(): Promise<void> {
    if (this.disposed) return;
    // Nobody has looked at what still waits.
    this.deferred?.drop();
    this.disposed = true;
    await this.compiler.end();
    this.pool.clear();
    await this.sessions.release();
  }

  /** Runs the smallest model there is, so that a device that does not work is found before anything else starts. */
  async probe(): Promise<void> {
    const session = await this.sessions.create(identityModel('float32', 1), 'host');
    await session.run({ [session.inputNames[0] as string]: new ort.Tensor('float32', Float32Array.of(1), [1]) });
  }

  sequence(sequence: Sequence): Executable | null {
    const executables = sequence.calls.map(({ executable }) => executable);
    const joins = (executable: Executable) => executable instanceof OnnxExecutable && executable.runsInPlace;
    if (this.deferred === null || !executables.every(joins)) return null;
    const graphs = executables.map((executable) => (executable as OnnxExecutable).graph);
    return this.compiler.joinedRuns(deadCode(joinSequence(sequence, graphs)));
  }

  private own(tensor: DeviceTensor, action: string): OnnxTensor {
    if (!(tensor instanceof OnnxTensor))
      throw new EngineError(`cannot ${action} a tensor that is not of an ONNX engine`);
    if (tensor.value === null)
      throw new EngineError(`cannot ${action} a ${signatureText(tensor)} tensor that was released`);
    return tensor;
  }
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
