import type {
  CompileOptions,
  CompileStatistics,
  Executable,
  PhasedFunction,
  Signature,
  TensorFunction,
  VjpOptions,
} from '../engine.ts';
import { EngineError } from '../errors.ts';
import type { Graph, GraphDType } from '../graph.ts';
import { assemblePhased, optimize, optimizeVjp, type PhasedGraphs, partition } from '../passes/index.ts';
import { trace, traceVjp } from '../trace/index.ts';
import type { OnnxDevice } from './devices.ts';
import { byteLength, type CompiledModel, type Host, OnnxExecutable } from './executable.ts';
import { graphFlops } from './flops.ts';
import { graphKey, vjpKey } from './key.ts';
import { lower } from './lowering/index.ts';
import { type FinishedModel, sameShape } from './model.ts';
import type { Sessions } from './sessions.ts';

/** What sequences of runs that were put off are called. */
const JOINED = 'joined runs';

/**
 * From functions to executables of an engine: traces, passes, the ONNX model, its session. Equal graphs share a session, equal traces
 * go through the passes once.
 */
export class Compiler {
  readonly #host: Host;
  readonly #provider: OnnxDevice['provider'];
  readonly #threads: number;
  readonly #sessions: Sessions;
  readonly #models = new Map<string, Promise<Omit<CompiledModel, 'path'>>>();
  readonly #optimized = new Map<string, Graph>();
  readonly #partitions = new Map<string, PhasedGraphs>();
  readonly #statistics = { traces: 0, executables: 0, cacheHits: 0, traceMs: 0, loweringMs: 0, sessionMs: 0 };
  #ended = false;

  /** @param host the engine that the executables are of */
  constructor(host: Host, device: OnnxDevice, threads: number, sessions: Sessions) {
    this.#host = host;
    this.#provider = device.provider;
    this.#threads = threads;
    this.#sessions = sessions;
  }

  /** Compiles a graph; equal ones share a session. Errors call the executable `name`, and are of the module `path`. */
  async compileGraph(graph: Graph, name: string, path = name): Promise<Executable> {
    if (this.#ended) throw new EngineError(`cannot compile "${name}": the engine was disposed`);
    const key = graphKey(graph);
    let model = this.#models.get(key);
    if (model) this.#statistics.cacheHits++;
    else {
      model = this.#build(graph, name);
      this.#models.set(key, model);
      model.catch(() => this.#models.delete(key));
    }
    return new OnnxExecutable({ ...(await model), name, path }, this.#host);
  }

  /** See `Engine.compile`. */
  async compile(
    fn: TensorFunction,
    signature: readonly Signature[],
    options: CompileOptions = {},
  ): Promise<Executable> {
    const graph = this.#traced(() => {
      const raw = trace(fn, signature, options);
      return this.#once(this.#optimized, graphKey(raw), () => optimize(raw));
    });
    return this.compileGraph(graph, options.name ?? 'function');
  }

  /** See `Engine.vjp`. */
  async vjp(
    fn: TensorFunction,
    signature: readonly Signature[],
    options: VjpOptions & CompileOptions,
  ): Promise<PhasedFunction> {
    const phased = this.#traced(() => {
      const raw = traceVjp(fn, signature, options);
      return this.#once(this.#partitions, vjpKey(raw, options), () => partition(optimizeVjp(raw), options));
    });
    return assemblePhased(phased, options.name ?? 'function', (...phase) => this.compileGraph(...phase));
  }

  /** Passes take as long as the trace: equal layers go through them once. */
  #once<T>(cache: Map<string, T>, key: string, make: () => T): T {
    let value = cache.get(key);
    if (value === undefined) {
      value = make();
      cache.set(key, value);
    }
    return value;
  }

  /** Counts a trace with its passes. */
  #traced<T>(make: () => T): T {
    const begin = performance.now();
    const result = make();
    this.#statistics.traces++;
    this.#statistics.traceMs += performance.now() - begin;
    return result;
  }

  async #build(graph: Graph, name: string): Promise<Omit<CompiledModel, 'path'>> {
    const lowered = this.#lowered(graph, name);
    const outputs = graph.outputs.map((id) => signatureOf(graph, id));
    const middle = performance.now();
    const places = Object.fromEntries(
      lowered.outputs.map(
        (output, i) => [output, byteLength(outputs[i] as Signature) > 0 ? 'gpu-buffer' : 'cpu'] as const,
      ),
    );
    const session =
      (this.#provider === 'cpu' ? this.#sessions.inPlace(lowered.bytes, name) : null) ??
      (await this.#sessions.create(lowered.bytes, 'device', name, places));
    this.#statistics.sessionMs += performance.now() - middle;
    return this.#compiled(graph, name, lowered, session);
  }

  /** The session of a sequence of runs. */
  joinedRuns(graph: Graph): OnnxExecutable {
    const lowered = this.#lowered(graph, JOINED);
    const begin = performance.now();
    const session = this.#sessions.inPlace(lowered.bytes, JOINED);
    if (session === null) throw new EngineError('runs that were put off need a session that runs in place');
    this.#statistics.sessionMs += performance.now() - begin;
    return new OnnxExecutable({ ...this.#compiled(graph, JOINED, lowered, session), path: JOINED }, this.#host);
  }

  #lowered(graph: Graph, name: string): FinishedModel {
    const begin = performance.now();
    const lowered = lower(graph, name, { provider: this.#provider, threads: this.#threads });
    this.#statistics.loweringMs += performance.now() - begin;
    return lowered;
  }

  #compiled(
    graph: Graph,
    name: string,
    lowered: FinishedModel,
    session: CompiledModel['session'],
  ): Omit<CompiledModel, 'path'> {
    this.#statistics.executables++;
    const outputs = graph.outputs.map((id) => signatureOf(graph, id));
    const target = { provider: this.#provider, threads: this.#threads, exactShapes: true };
    return {
      name,
      id: this.#statistics.executables,
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

  /** What has been compiled so far. */
  statistics(): CompileStatistics {
    return { ...this.#statistics };
  }

  /** Lets what is being compiled finish, and compiles nothing more. */
  async end(): Promise<void> {
    this.#ended = true;
    await Promise.allSettled(this.#models.values());
    this.#models.clear();
  }
}

function signatureOf(graph: Graph, id: number): Signature {
  const { dtype, shape } = graph.values.get(id) as { dtype: GraphDType; shape: readonly number[] };
  return { dtype, shape };
}
