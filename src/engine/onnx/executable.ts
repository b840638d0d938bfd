import type { InferenceSession, Tensor } from 'onnxruntime-node';
import ort from 'onnxruntime-node';
import { type Shape, sizeOf } from '../../tensor/index.ts';
import type { DeviceTensor, Executable, Signature } from '../engine.ts';
import { EngineError, signatureText } from '../errors.ts';
import type { Graph } from '../graph.ts';
import { type Deferrable, type DeferredRuns, SMALL_FLOPS } from './deferred.ts';
import { type Feed, InPlaceSession } from './in-place.ts';
import type { Residence } from './residence.ts';
import { type BufferPool, hostData, OnnxTensor } from './tensor.ts';

/** What an executable needs from its engine. */
export interface Host {
  /** Runs that wait; null where none are put off. */
  readonly deferred: DeferredRuns | null;
  readonly pool: BufferPool;
  /** Where values live if not in host memory. */
  readonly residence: Residence | null;
  /** Bytes that a run moves though values are said to be on the host: devices whose memory the binding cannot keep. */
  countRun(toDevice: number, toHost: number): void;
}

/** What a session was made from. */
export interface CompiledModel {
  readonly name: string;
  /** The module that it is of, for errors. */
  readonly path: string;
  readonly session: InferenceSession | InPlaceSession;
  /** Makes the model for export: the session's own may give outputs other shapes. */
  readonly export: () => Uint8Array;
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  readonly inputs: readonly Signature[];
  readonly outputs: readonly Signature[];
  /** Shapes in which the session writes the outputs where they are not the signature's (same elements, same order). */
  readonly writtenShapes: readonly (Shape | null)[];
  readonly flops: number;
  /** What the session was made from. */
  readonly graph: Graph;
  /** Different for each session. */
  readonly id: number;
}

let runs = 0;

/** Milliseconds after which a run lets the event loop turn before it begins. */
const TURN_MS = 20;
let turned = 0;

/** A session with inputs and outputs by position. */
export class OnnxExecutable implements Executable, Deferrable {
  readonly inputs: readonly Signature[];
  readonly outputs: readonly Signature[];
  readonly flops: number;
  readonly graph: Graph;
  readonly id: number;
  private readonly model: CompiledModel;
  private readonly host: Host;
  private readonly outputBytes: readonly number[];
  private readonly inputBytes: number;

  constructor(model: CompiledModel, host: Host) {
    this.model = model;
    this.host = host;
    this.inputs = model.inputs;
    this.outputs = model.outputs;
    this.flops = model.flops;
    this.graph = model.graph;
    this.id = model.id;
    this.outputBytes = model.outputs.map(byteLength);
    this.inputBytes = model.inputs.map(byteLength).reduce((sum, bytes) => sum + bytes, 0);
  }

  /** Whether its graph can be part of a session that runs in place. */
  get runsInPlace(): boolean {
    return this.model.session instanceof InPlaceSession;
  }

  async run(inputs: readonly DeviceTensor[], into?: readonly (DeviceTensor | null)[]): Promise<DeviceTensor[]> {
    const { model, host } = this;
    const run = ++runs;
    const feeds = this.feeds(inputs, run);
    if (into !== undefined && into.length !== this.outputs.length)
      this.fail(`has ${this.outputs.length} outputs, but \`into\` has ${into.length} entries`);
    if (host.residence !== null) {
      for (let i = 0; i < inputs.length; i++) {
        const pending = host.residence.bring(inputs[i] as OnnxTensor);
        if (pending !== null) {
          await pending;
          feeds[model.inputNames[i] as string] = (inputs[i] as OnnxTensor).value as Tensor;
        }
      }
      return this.runOnDevice(feeds, into, run);
    }
    const results = new Array<OnnxTensor>(this.outputs.length);
    const fetches: Record<string, Feed> = {};
    for (let i = 0; i < results.length; i++) {
      const target = into?.[i];
      const result = target ? this.target(target, i, run) : this.fresh(i);
      results[i] = result;
      const value = result.value as Tensor;
      const written = model.writtenShapes[i];
      fetches[model.outputNames[i] as string] = written ? reshaped(value, written) : value;
    }
    if (results.length === 0) return results;
    if (model.session instanceof InPlaceSession) await this.callInPlace(model.session, feeds, fetches);
    else await this.call(model.session, feeds, fetches as Record<string, Tensor>);
    host.countRun(
      this.inputBytes,
      this.outputBytes.reduce((sum, bytes) => sum + bytes, 0),
    );
    return results;
  }

  defer(inputs: readonly DeviceTensor[]): DeviceTensor[] | null {
    const { model, host } = this;
    const { deferred } = host;
    if (deferred === null || this.flops > SMALL_FLOPS || !(model.session instanceof InPlaceSession)) return null;
    if (inputs.length !== this.inputs.length) this.fail(`takes ${this.inputs.length} inputs, got ${inputs.length}`);
    inputs.forEach((input, i) => {
      if (!(input instanceof OnnxTensor) || input.waiting === null)
        this.checked(input, this.inputs[i] as Signature, `input ${i}`);
      else if (input.dead) this.fail(`input ${i} was released; keep it until the runs that use it have ended`);
      else this.fits(input, this.inputs[i] as Signature, `input ${i}`);
    });
    const outputs = this.outputs.map(
      ({ dtype, shape }, i) => new OnnxTensor(dtype, shape, this.outputBytes[i] as number, 'host', null, true),
    );
    deferred.add(this, inputs as readonly OnnxTensor[], outputs);
    return outputs;
  }

  runNow(inputs: readonly OnnxTensor[], outputs: readonly OnnxTensor[]): void {
    const { model, host } = this;
    const feeds: Record<string, Feed> = {};
    inputs.forEach((input, i) => {
      feeds[model.inputNames[i] as string] = input.value as Tensor;
    });
    const fetches: Record<string, Feed> = {};
    outputs.forEach((output, i) => {
      const { dtype, shape, byteLength: bytes } = output;
      const value = new ort.Tensor(dtype, hostData(dtype, host.pool.take(bytes), sizeOf(shape)), shape);
      output.value = value;
      const written = model.writtenShapes[i];
      fetches[model.outputNames[i] as string] = written ? reshaped(value, written) : value;
    });
    if (outputs.length === 0) return;
    try {
      (model.session as InPlaceSession).run(feeds, fetches);
    } catch (error) {
      this.fail(`failed in ONNX Runtime: ${runtimeMessage(error)}`, error);
    }
  }

  onnx(): Uint8Array {
    return this.model.export();
  }

  private feeds(inputs: readonly DeviceTensor[], run: number): Record<string, Tensor> {
    const { inputNames } = this.model;
    if (inputs.length !== this.inputs.length) this.fail(`takes ${this.inputs.length} inputs, got ${inputs.length}`);
    const feeds: Record<string, Tensor> = {};
    for (let i = 0; i < inputs.length; i++) {
      const input = inputs[i] as DeviceTensor;
      const value = this.checked(input, this.inputs[i] as Signature, `input ${i}`);
      (input as OnnxTensor).usedBy = run;
      feeds[inputNames[i] as string] = value;
    }
    return feeds;
  }

  /** The tensor behind a handle that fits. */
  private checked(tensor: DeviceTensor, expected: Signature, what: string): Tensor {
    if (!(tensor instanceof OnnxTensor)) this.fail(`${what} is not a tensor of an ONNX engine; use engine.upload`);
    this.fits(tensor, expected, what);
    const { value } = tensor;
    if (value === null) this.fail(`${what} was released; keep it until the runs that use it have ended`);
    if (tensor.location === 'host' && tensor.byteLength > 0 && (value.data as Float32Array).byteLength === 0)
      this.fail(`the memory of ${what} was transferred to another thread; upload it again`);
    return value;
  }

  private fits(tensor: OnnxTensor, expected: Signature, what: string): void {
    if (tensor.dtype !== expected.dtype || !sameDims(tensor.shape, expected.shape))
      this.fail(`${what} is ${signatureText(tensor)}, expected ${signatureText(expected)}`);
  }

  private target(tensor: DeviceTensor, i: number, run: number): OnnxTensor {
    this.checked(tensor, this.outputs[i] as Signature, `into[${i}]`);
    const { deferred } = this.host;
    if (deferred?.reads(tensor as OnnxTensor)) deferred.flush();
    if ((tensor as OnnxTensor).usedBy === run)
      this.fail(`into[${i}] is also an input of this run, which would overwrite it`);
    return tensor as OnnxTensor;
  }

  private fresh(i: number): OnnxTensor {
    const { dtype, shape } = this.outputs[i] as Signature;
    const bytes = this.outputBytes[i] as number;
    const data = hostData(dtype, this.host.pool.take(bytes), sizeOf(shape));
    return new OnnxTensor(dtype, shape, bytes, 'host', new ort.Tensor(dtype, data, shape), true);
  }

  /** ONNX Runtime makes the output buffers; those of `into` take their place. */
  private async runOnDevice(
    feeds: Record<string, Tensor>,
    into: readonly (DeviceTensor | null)[] | undefined,
    run: number,
  ): Promise<DeviceTensor[]> {
    const targets = this.outputs.map((_, i) => (into?.[i] ? this.target(into[i] as DeviceTensor, i, run) : null));
    const values = await this.call(this.model.session as InferenceSession, feeds, undefined);
    return this.outputs.map(({ dtype, shape }, i) => {
      const value = values[this.model.outputNames[i] as string] as Tensor;
      const target = targets[i];
      if (!target) return new OnnxTensor(dtype, shape, this.outputBytes[i] as number, 'device', value, false);
      target.value?.dispose();
      target.value = value;
      return target;
    });
  }

  private async call(
    session: InferenceSession,
    feeds: Record<string, Tensor>,
    fetches: Record<string, Tensor> | undefined,
  ) {
    try {
      return await (fetches ? session.run(feeds, fetches) : session.run(feeds));
    } catch (error) {
      this.fail(`failed in ONNX Runtime: ${runtimeMessage(error)}`, error);
    }
  }

  /** Lets the event loop turn now and then, as a public session does at every run. */
  private async callInPlace(session: InPlaceSession, feeds: Record<string, Feed>, fetches: Record<string, Feed>) {
    const now = performance.now();
    if (now - turned > TURN_MS) {
      turned = now;
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
    try {
      session.run(feeds, fetches);
    } catch (error) {
      this.fail(`failed in ONNX Runtime: ${runtimeMessage(error)}`, error);
    }
  }

  private fail(problem: string, cause?: unknown): never {
    throw new EngineError(`executable "${this.model.name}" ${problem}`, { path: this.model.path, cause });
  }
}

/** The same elements in another shape. */
function reshaped(value: Tensor, dims: Shape): Feed {
  const { type, data, location } = value;
  return { type, data, location, dims };
}

/** Bytes of a value of this signature. */
export function byteLength({ dtype, shape }: Signature): number {
  return sizeOf(shape) * (dtype === 'bool' ? 1 : 4);
}

function sameDims(a: readonly number[], b: readonly number[]): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** What ONNX Runtime says went wrong, without the C++ source position in front. */
export function runtimeMessage(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.replace(/^\S*onnxruntime_src\S* .* was false\. /s, '').trim();
}
