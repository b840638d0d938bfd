import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { Signature } from '../engine/index.ts';
import { inferOutputs } from '../engine/index.ts';
import type { Recording } from './context.ts';
import { Trace } from './context.ts';
import { describeTensors, ModuleError } from './errors.ts';
import { expertFunction } from './expert-function.ts';
import type { LayerFunction, OutputLayout } from './layer-function.ts';
import type { Layer, Model, Module, TaskInfo } from './module.ts';
import type { PlacedModule } from './structure.ts';
import { checkModel, LOSS_PATH, namedParams, namedState, sortNamed, walk } from './structure.ts';

/** How a layer is turned into a function. */
export interface LayerFunctionOptions {
  readonly training: boolean;
  /** The model's loss, for the last layer: the layer's outputs and the targets go in, and no activations come out. */
  readonly loss?: Module;
  /** Signatures of the batch's targets; only with `loss`. */
  readonly targets?: readonly Signature[];
  /** Integer targets are below this; only with `loss`. */
  readonly classes?: number;
  /**
   * Where experts run. `outside` (default): the function is cut at their call, and they are functions of their own. `here`: the
   * layer is one function that runs every expert on every row and keeps the rows that are its own; their parameters are the
   * function's. The same mathematics for more arithmetic, for training on one machine.
   */
  readonly experts?: 'outside' | 'here';
}

/** `train` differentiates the loss, `evaluate` only computes it, `predict` stops at the last layer's outputs. */
export type FunctionMode = 'train' | 'evaluate' | 'predict';

/** Signature of the `key` input of every layer and expert function. */
export const KEY_SIGNATURE: Signature = { dtype: 'int32', shape: [2] };

/**
 * Turns a layer into a pure function of tensors (see `LayerFunction`). It is run once without computing anything, to
 * learn the shapes and names of its outputs, so whatever is wrong with the layer shows here.
 * @throws ModuleError naming the module, its kind and the shapes it was given.
 */
export function layerFunction(
  layer: Layer,
  inputs: readonly Signature[],
  options: LayerFunctionOptions,
): LayerFunction {
  const { loss, training } = options;
  const here = options.experts === 'here';
  const targets = loss ? (options.targets ?? []) : [];
  const params = sortNamed([
    ...namedParams(layer.module, layer.name, { experts: here }),
    ...(loss ? namedParams(loss, LOSS_PATH, { experts: here }) : []),
  ]);
  const state = sortNamed([...namedState(layer.module, layer.name), ...(loss ? namedState(loss, LOSS_PATH) : [])]);
  const signature: Signature[] = [
    ...params.map(({ spec }): Signature => ({ dtype: 'float32', shape: spec.shape })),
    ...state.map(({ spec }): Signature => ({ dtype: 'float32', shape: spec.shape })),
    KEY_SIGNATURE,
    ...inputs,
    ...targets,
  ];

  const run = (given: readonly Tensor[]) => {
    if (given.length !== signature.length)
      throw new ModuleError(
        layer.module.kind,
        layer.name,
        `takes ${signature.length} tensors, but ${given.length} were given`,
      );
    const at = params.length + state.length;
    const trace = new Trace({
      root: layer.name,
      training,
      expertsHere: here,
      params: new Map(params.map(({ path }, i) => [path, given[i] as Tensor])),
      state: new Map(state.map(({ path }, i) => [path, given[params.length + i] as Tensor])),
      key: given[at] as Tensor,
    });
    const activations = trace.run(layer.module, layer.name, given.slice(at + 1, at + 1 + inputs.length));
    if (!loss) return { activations, objective: sumOf(trace.recording.losses), recording: trace.recording };
    checkWidth(layer, loss, activations[0], options.classes);
    const value = runLoss(trace, loss, activations, given.slice(at + 1 + inputs.length));
    trace.recording.metrics.unshift({ name: 'loss', value });
    return { activations: [], objective: sumOf([value, ...trace.recording.losses]), recording: trace.recording };
  };
  const outputsOf = ({ activations, objective, recording }: ReturnType<typeof run>) => [
    ...activations,
    objective,
    ...recording.metrics.map((metric) => metric.value),
    ...recording.contributions.values(),
  ];

  const seen: { recording?: Recording; activations?: number } = {};
  const outputs = inferOutputs((...given) => {
    const result = run(given);
    seen.recording = result.recording;
    seen.activations = result.activations.length;
    return outputsOf(result);
  }, signature);
  const layout = layoutOf(outputs, seen.activations ?? 0, seen.recording as Recording);
  const callers = callersOf(layer, loss, seen.recording as Recording);

  return {
    name: layer.name,
    params,
    state,
    expertCalls: (here ? [] : callers).map(({ path, module }) => expertFunction(module, path, { training })),
    fn: (...given) => outputsOf(run(given)),
    inputs: signature,
    layout,
  };
}

/**
 * The functions of a model's layers, each fed with the activations of the one before, for microbatches of `micro`
 * examples.
 * @throws ModuleError or Error naming the layer, if the model is malformed or does not fit the task.
 */
export function modelFunctions(model: Model, info: TaskInfo, micro: number, mode: FunctionMode): LayerFunction[] {
  checkModel(model);
  const batched = (s: Signature): Signature => ({ dtype: s.dtype, shape: [micro, ...s.shape] });
  const training = mode === 'train';
  const functions: LayerFunction[] = [];
  let signatures: readonly Signature[] = info.inputs.map(batched);
  model.layers.forEach((layer, i) => {
    const last = i === model.layers.length - 1 && mode !== 'predict';
    const classes = info.vocabSize ?? info.classes;
    const options = last
      ? {
          training,
          loss: model.loss,
          targets: info.targets.map(batched),
          ...(classes === undefined ? {} : { classes }),
        }
      : { training };
    const before = model.layers[i - 1];
    const made = before
      ? withOrigin(before.name, signatures, () => layerFunction(layer, signatures, options))
      : layerFunction(layer, signatures, options);
    functions.push(made);
    signatures = made.layout.activations;
  });
  return functions;
}

/** Where a module complains of the shapes that came into the layer, the layer that made them is likely at fault. */
function withOrigin<T>(layer: string, given: readonly Signature[], make: () => T): T {
  try {
    return make();
  } catch (error) {
    const shapes = given.map(({ dtype, shape }) => `${dtype} [${shape}]`).join(', ');
    const complaint = `failed on ${shapes}`;
    if (!(error instanceof ModuleError && error.complaint.startsWith(complaint))) throw error;
    if (!error.complaint.slice(complaint.length).includes('[')) throw error;
    const note = `${error.complaint}; its input is what the layer "${layer}" returns`;
    throw new ModuleError(error.kind, error.path, note, error.cause);
  }
}

/** Logits that are too few for the labels would only fail deep in the engine, or not at all. */
function checkWidth(layer: Layer, loss: Module, logits: Tensor | undefined, classes = 0): void {
  const width = logits?.shape.at(-1) ?? classes;
  if (loss.kind !== 'crossEntropy' || width >= classes) return;
  throw new ModuleError(
    layer.module.kind,
    layer.name,
    `returned ${describeTensors([logits as Tensor])}, ${width} logits, but the targets are of ${classes} kinds: ` +
      'the last axis must be info.vocabSize (text) or info.classes wide',
  );
}

function runLoss(trace: Trace, loss: Module, activations: readonly Tensor[], targets: readonly Tensor[]): Tensor {
  const before = trace.recording.metrics.length;
  const outputs = trace.run(loss, LOSS_PATH, [...activations, ...targets]);
  const value = outputs[0];
  if (outputs.length !== 1 || value?.rank !== 0 || value.dtype !== 'float32')
    throw new ModuleError(
      loss.kind,
      LOSS_PATH,
      `returned ${describeTensors(outputs)}; a loss returns one float32 scalar, the mean over the microbatch`,
    );
  // A loss's metrics are the model's: `accuracy`, not `loss.accuracy`.
  trace.recording.metrics.splice(
    before,
    Number.POSITIVE_INFINITY,
    ...trace.recording.metrics.slice(before).map((m) => ({ ...m, name: m.name.slice(LOSS_PATH.length + 1) })),
  );
  return value;
}

function sumOf(values: readonly Tensor[]): Tensor {
  return values.length === 0 ? tf.scalar(0) : values.reduce((sum, value) => tf.add(sum, value));
}

function layoutOf(outputs: readonly Signature[], activations: number, recording: Recording): OutputLayout {
  const metrics = recording.metrics.map(({ name }, i) => ({
    name,
    signature: outputs[activations + 1 + i] as Signature,
  }));
  return {
    activations: outputs.slice(0, activations),
    objective: activations,
    metrics,
    contributions: [...recording.contributions.keys()],
  };
}

/** Modules that called their experts, in the order of the calls. @throws ModuleError if one has experts it never calls. */
function callersOf(layer: Layer, loss: Module | undefined, recording: Recording): PlacedModule[] {
  const placed = [
    ...walk(layer.module, layer.name, { experts: false }),
    ...(loss ? walk(loss, LOSS_PATH, { experts: false }) : []),
  ].filter(({ module }) => module.experts);
  for (const { path, module } of placed)
    if (!recording.expertCalls.includes(path))
      throw new ModuleError(module.kind, path, 'declares experts, but its forward did not call ctx.experts');
  return recording.expertCalls.map((path) => placed.find((p) => p.path === path) as PlacedModule);
}
