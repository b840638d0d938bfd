import type {
  CompileOptions,
  Executable,
  Phase,
  PhasedFunction,
  Signature,
  TensorFunction,
  VjpOptions,
} from '../engine.ts';
import { EngineError } from '../errors.ts';
import type { Graph } from '../graph.ts';
import { trace, traceVjp } from '../trace/index.ts';
import { optimize } from './optimize.ts';
import { optimizeVjp, partition } from './partition.ts';
import type { PhasedGraphs } from './phase-graphs.ts';

/**
 * Compiles the phases of a function; `compileGraph` is the engine's, which shares executables between equal graphs.
 * `path` is the function's name: the module that an error in any of its phases is of.
 */
export async function assemblePhased(
  phased: PhasedGraphs,
  name: string,
  compileGraph: (graph: Graph, name: string, path: string) => Promise<Executable>,
): Promise<PhasedFunction> {
  const phases = await Promise.all(
    phased.phases.map(async ({ kind, graph, frees, call }, i): Promise<Phase> => {
      const label = `${name} ${kind} ${i}`.trim();
      const empty = graph.outputs.length === 0;
      const executable = empty ? nothing(label) : await compileGraph(graph, label, name);
      const reads = empty ? [] : graph.inputs;
      return { kind, executable, reads, writes: graph.outputs, frees, ...(call ? { call } : {}) };
    }),
  );
  const { inputs, outputs, cotangents, gradients, residualBytes } = phased;
  const slots = new Map<number, Signature>();
  for (const [id, { dtype, shape }] of phased.values) slots.set(id, { dtype, shape });
  return { phases, inputs, outputs, cotangents, gradients, slots, residualBytes };
}

/** A phase that only marks a place: between two expert calls there may be nothing to compute. */
function nothing(name: string): Executable {
  return {
    inputs: [],
    outputs: [],
    flops: 0,
    run: async () => [],
    onnx: () => {
      throw new EngineError(`"${name}" computes nothing, so it has no ONNX model`);
    },
  };
}

/** What every engine does before it compiles: trace, run the passes, and (for a vjp) cut. Times in milliseconds. */
export function traceFunction(
  fn: TensorFunction,
  signature: readonly Signature[],
  options: CompileOptions,
): { readonly graph: Graph; readonly traceMs: number } {
  const begin = performance.now();
  const graph = optimize(trace(fn, signature, options));
  return { graph, traceMs: performance.now() - begin };
}

/** The same for a function with its gradient. */
export function tracePhases(
  fn: TensorFunction,
  signature: readonly Signature[],
  options: VjpOptions & CompileOptions,
): { readonly phased: PhasedGraphs; readonly traceMs: number } {
  const begin = performance.now();
  const phased = partition(optimizeVjp(traceVjp(fn, signature, options)), options);
  return { phased, traceMs: performance.now() - begin };
}
