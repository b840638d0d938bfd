import { type Graph, graphFlops, type Signature, trace, traceVjp } from '../engine/index.ts';
import {
  type ExpertFunction,
  KEY_SIGNATURE,
  type LayerFunction,
  type Model,
  modelFunctions,
  type Named,
  type ParamSpec,
  type TaskInfo,
} from '../modules/index.ts';
import type { Optimizer } from '../optim/index.ts';
import { sizeOf } from '../tensor/index.ts';
import { residualBytesOf, splitByUse } from './residuals.ts';
import type { ExpertCallSummary, LayerSummary, ModelSummary, ParamSummary } from './summary.ts';

/** Rows with which an expert is traced to learn what one row costs. */
const SAMPLE_ROWS = 64;

/** What tracing tells of a layer, apart from names. */
interface Measured {
  readonly forward: number;
  readonly backward: number;
  readonly weight: number;
  readonly residualBytes: number;
  /** Shape of the rows of each expert call. */
  readonly rows: readonly Signature[];
}

/**
 * Measures a model for planning: parameters, FLOPs and bytes of every layer for microbatches of `micro` examples, from
 * traces of its training functions. Nothing is compiled or computed. Layers that trace to the same graph are measured
 * once.
 * @throws ModuleError or EngineError naming the layer, if the model does not fit the task
 */
export function summariseModel(
  model: Model,
  info: TaskInfo,
  micro: number,
  optimizer: Pick<Optimizer, 'slots'>,
): ModelSummary {
  const measured = new Map<string, Measured>();
  const functions = modelFunctions(model, info, micro, 'train');
  const layers = functions.map((fn, index): LayerSummary => {
    const activations = index === 0 ? info.inputs.length : (functions[index - 1]?.layout.activations.length ?? 0);
    const { forward, backward, weight, residualBytes, rows } = measure(fn, activations, index === 0, measured);
    const params = (named: readonly Named<ParamSpec>[]) => named.map((each) => paramSummary(each, optimizer));
    return {
      name: fn.name,
      params: params(fn.params),
      expertCalls: fn.expertCalls.map((call, i) => expertSummary(call, rows[i], params)),
      forwardFlops: forward,
      backwardFlops: backward,
      backwardWeightFlops: weight,
      outputs: fn.layout.activations,
      residualBytes,
      stateBytes: fn.state.reduce((sum, { spec }) => sum + 4 * sizeOf(spec.shape), 0),
    };
  });
  return { layers };
}

function paramSummary({ path, spec }: Named<ParamSpec>, optimizer: Pick<Optimizer, 'slots'>): ParamSummary {
  const bytes = 4 * sizeOf(spec.shape);
  const slots = optimizer.slots({ path, shape: spec.shape, decay: spec.decay }).length;
  return { path, shape: spec.shape, bytes, optimizerBytes: slots * bytes };
}

function measure(fn: LayerFunction, activations: number, first: boolean, known: Map<string, Measured>): Measured {
  const key = JSON.stringify([keyOf(trace(fn.fn, fn.inputs, { name: fn.name })), fn.params.length, activations, first]);
  const before = known.get(key);
  if (before) return before;
  const at = fn.params.length + fn.state.length + 1;
  const isActivation = (i: number) => i >= at && i < at + activations;
  const { graph, inputs, outputs, gradients } = traceVjp(fn.fn, fn.inputs, {
    name: fn.name,
    // The batch's inputs take no gradient.
    wrt: fn.inputs.map(({ dtype }, i) => dtype === 'float32' && (i < fn.params.length || (isActivation(i) && !first))),
    differentiable: outputsOf(fn).map((_, i) => i <= fn.layout.objective),
  });
  const flops = (nodes: Graph['nodes']) => graphFlops({ ...graph, nodes });
  const parts = splitByUse(graph, {
    outputs,
    inputGradients: gradients.filter((_, i) => isActivation(i)),
    paramGradients: gradients.filter((_, i) => i < fn.params.length),
  });
  const made: Measured = {
    forward: flops(parts.forward),
    backward: flops(parts.backwardInput) + flops(parts.backwardWeight),
    weight: flops(parts.backwardWeight),
    residualBytes: residualBytesOf(graph, parts, new Set(inputs.filter((_, i) => isActivation(i)))),
    rows: parts.forward
      .filter(({ kernel }) => kernel === 'PlexusExperts')
      .map((node) => signatureAt(graph, node.inputs[0])),
  };
  known.set(key, made);
  return made;
}

/** One entry for each output of a layer function. */
function outputsOf({ layout }: LayerFunction): readonly unknown[] {
  return [...layout.activations, layout.objective, ...layout.metrics, ...layout.contributions];
}

function expertSummary(
  call: ExpertFunction,
  rows: Signature | undefined,
  params: (named: readonly Named<ParamSpec>[]) => ParamSummary[],
): ExpertCallSummary {
  const [count, width] = rows?.shape ?? [];
  if (count === undefined || width === undefined)
    throw new Error(`the trace has no rows for the experts of "${call.path}"`);
  const own = call.params[0] ?? [];
  const signature: Signature[] = [
    ...own.map(({ spec }): Signature => ({ dtype: 'float32', shape: spec.shape })),
    KEY_SIGNATURE,
    { dtype: 'float32', shape: [SAMPLE_ROWS, width] },
  ];
  const { graph, inputs, outputs, gradients } = traceVjp(call.fn, signature, {
    name: `${call.path}.experts`,
    wrt: signature.map(({ dtype }) => dtype === 'float32'),
    differentiable: [true],
  });
  const last = signature.length - 1;
  const parts = splitByUse(graph, {
    outputs,
    inputGradients: [gradients[last] ?? null],
    paramGradients: gradients.slice(0, own.length),
  });
  const kept = residualBytesOf(graph, parts, new Set(inputs.slice(last)));
  return {
    path: call.path,
    experts: call.params.map(params),
    rows: count,
    width,
    flopsPerRow: graphFlops({ ...graph, nodes: parts.forward }) / SAMPLE_ROWS,
    residualBytesPerRow: kept / SAMPLE_ROWS,
  };
}

function signatureAt(graph: Graph, id: number | undefined): Signature {
  const value = id === undefined ? undefined : graph.values.get(id);
  if (!value) throw new Error('an expert call has no rows');
  return { dtype: value.dtype, shape: value.shape };
}

/** A text that is the same for layers that compute the same on the same shapes, whatever their names. */
function keyOf(graph: Graph): unknown {
  return [
    graph.nodes.map(({ kernel, inputs, outputs, attrs }) => [kernel, inputs, outputs, attrs]),
    [...graph.values.values()].map(({ dtype, shape }) => [dtype, shape]),
    graph.constants.map(({ id, data }) => [id, data.length]),
    graph.inputs,
    graph.outputs,
  ];
}
