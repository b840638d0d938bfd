import type { Tensor } from '@tensorflow/tfjs-core';
import type * as tfl from '@tensorflow/tfjs-layers';
import * as init from '../init.ts';
import type { Initializer, Layer, Module, ParamSpec } from '../module.ts';
import { batchNorm } from '../nn/batch-norm.ts';
import { dropout } from '../nn/dropout.ts';
import { param } from '../param.ts';

type KerasLayer = tfl.layers.Layer;
type KerasVariable = tfl.LayerVariable;

/** Options of `wrapLayersModel`. */
export interface WrapOptions {
  /**
   * Where parameters start: `initialise` draws them anew from the run's seed with each layer's own initialisers, so that
   * every worker gets the same ones; `current` keeps the model's values (loaded weights). Default `initialise`.
   */
  readonly weights?: 'initialise' | 'current';
  /** Leaves out a softmax at the very end, because Plexus' cross-entropy takes logits. Default true. */
  readonly logits?: boolean;
}

/**
 * Turns a tfjs `LayersModel` into layers of a Plexus model. Each of its layers runs its own tfjs code; its weights become
 * parameters at `<layer>.<weight>` (`dense_1.kernel`). A sequential model gives one Plexus layer each; a graph of
 * layers gives a single one, called `graph`. Dropout becomes Plexus' (keyed by the run's seed), batch normalisation
 * keeps its moving statistics as state. Compiled losses, optimizers and regularizers of the tfjs model are not used.
 * @throws Error naming the layer that cannot be wrapped: random layers other than dropout, stateful recurrence, layers
 * that are used twice, models of several inputs or outputs.
 */
export function wrapLayersModel(model: tfl.LayersModel, options: WrapOptions = {}): Layer[] {
  const { weights = 'initialise', logits = true } = options;
  if (model.inputs.length !== 1 || model.outputs.length !== 1)
    throw new Error(
      `a tfjs model of ${model.inputs.length} inputs and ${model.outputs.length} outputs cannot be wrapped; one of each is needed`,
    );
  const layers = model.layers.filter((layer) => layer.getClassName() !== 'InputLayer');
  const last = model.outputs[0]?.sourceLayer;
  const modules = new Map(
    layers.map((layer) => {
      return [
        layer,
        { name: nameOf(layer, layers), module: wrapLayer(layer, weights, logits && layer === last) },
      ] as const;
    }),
  );
  const chain = layers.every((layer, i) => {
    const parents = layer.inboundNodes[0]?.inboundLayers ?? [];
    return parents.length === 1 && (i === 0 || parents[0] === layers[i - 1]);
  });
  if (chain && layers[layers.length - 1] === last) return [...modules.values()];
  return [{ name: 'graph', module: graphOf(layers, last as KerasLayer, modules) }];
}

/**
 * A layer's name, fit for a path. Names that tfjs made up (`dense_Dense7`) count layers since the process started; here
 * they count those of the model from 1 (`dense_1`), so that every worker and every resumed run calls them alike.
 */
function nameOf(layer: KerasLayer, layers: readonly KerasLayer[]): string {
  const kind = layer.getClassName();
  const madeUp = (other: KerasLayer) =>
    other.getClassName() === kind && new RegExp(`^(.+)_${kind}\\d+$`).exec(other.name);
  const match = madeUp(layer);
  if (!match) return layer.name.replaceAll(/[./]/g, '_');
  return `${match[1]}_${layers.filter(madeUp).indexOf(layer) + 1}`;
}

/** Layers of any shape of graph as one module: each runs once all layers before it have. */
function graphOf(layers: readonly KerasLayer[], last: KerasLayer, modules: ReadonlyMap<KerasLayer, Layer>): Module {
  return {
    kind: 'tfjsGraph',
    children: Object.fromEntries([...modules.values()].map(({ name, module }) => [name, module])),
    forward(_params, [x], ctx) {
      const values = new Map<KerasLayer, readonly Tensor[]>();
      for (const layer of layers) {
        const node = layer.inboundNodes[0];
        const inputs = (node?.inboundLayers ?? []).map((parent, i) =>
          parent.getClassName() === 'InputLayer'
            ? (x as Tensor)
            : (values.get(parent)?.[node?.tensorIndices[i] ?? 0] as Tensor),
        );
        values.set(layer, ctx.runAll((modules.get(layer) as Layer).name, inputs));
      }
      return values.get(last) as readonly Tensor[];
    },
  };
}

const RANDOM = ['GaussianNoise', 'GaussianDropout', 'AlphaDropout', 'SpatialDropout1D', 'RandomWidth'];

function wrapLayer(layer: KerasLayer, weights: 'initialise' | 'current', dropSoftmax: boolean): Module {
  const kind = layer.getClassName();
  const refuse = (why: string): never => {
    throw new Error(`the tfjs layer "${layer.name}" (${kind}) cannot be wrapped: ${why}`);
  };
  if (layer.inboundNodes.length !== 1)
    refuse(`it is used ${layer.inboundNodes.length} times; build one layer for each use`);
  if (RANDOM.includes(kind)) refuse('it draws random numbers that no seed controls; use dropout, or write a module');
  if (layer.stateful) refuse('it is stateful; Plexus starts every microbatch afresh');
  const config = layer.getConfig() as Record<string, unknown>;
  if (kind === 'Dropout') {
    if (config.noiseShape !== null && config.noiseShape !== undefined) refuse('noiseShape is not supported');
    return dropout(config.rate as number);
  }
  if (typeof config.dropout === 'number' && (config.dropout > 0 || (config.recurrentDropout as number) > 0))
    refuse('dropout inside recurrent layers is not supported; put a dropout layer after it');
  if (kind === 'BatchNormalization') return wrapBatchNorm(layer, config, weights, refuse);
  if (layer.nonTrainableWeights.length > 0)
    refuse(
      `its weights ${layer.nonTrainableWeights.map((w) => w.originalName).join(', ')} are not trainable; set trainable: true`,
    );
  if (dropSoftmax && kind === 'Softmax') return { kind: 'identity', forward: (_params, [x]) => x as Tensor };
  return callLayer(layer, weights, dropSoftmax && config.activation === 'softmax');
}

/** What tfjs-layers asks of an activation. */
const LINEAR = { getClassName: () => 'linear', apply: (x: Tensor) => x };

/** Runs the layer's own code with our tensors in place of its variables. */
function callLayer(layer: KerasLayer, weights: 'initialise' | 'current', dropActivation: boolean): Module {
  const variables = layer.trainableWeights.map((variable) => ({ name: weightName(variable), variable }));
  const specs = variables.map(({ name, variable }) => [name, specOf(layer, name, variable, weights)] as const);
  return {
    kind: layer.getClassName(),
    params: Object.fromEntries(specs),
    forward(params, inputs, ctx) {
      const replaced: [Record<string, unknown>, string, unknown][] = [];
      const replace = (target: unknown, key: string, value: unknown) => {
        const object = target as Record<string, unknown>;
        replaced.push([object, key, object[key]]);
        object[key] = value;
      };
      try {
        for (const { name, variable } of variables) replace(variable, 'val', params[name]);
        if (dropActivation) replace(layer, 'activation', LINEAR);
        const result = layer.call(inputs as Tensor[], { training: ctx.training });
        return result as Tensor | Tensor[];
      } finally {
        for (const [object, key, value] of replaced) object[key] = value;
      }
    },
  };
}

function wrapBatchNorm(
  layer: KerasLayer,
  config: Record<string, unknown>,
  weights: 'initialise' | 'current',
  refuse: (why: string) => never,
): Module {
  const channels = layer.weights[0]?.shape[0];
  const axis = config.axis as number;
  const shapes = (layer.inboundNodes[0] as { inputShapes: unknown }).inputShapes as number[] | number[][];
  const rank = Array.isArray(shapes[0]) ? shapes[0].length : shapes.length;
  if (typeof channels !== 'number' || (axis !== -1 && axis !== rank - 1))
    return refuse('only the last axis can be normalised');
  if (!config.center || !config.scale) return refuse('center and scale must be on');
  const values = (name: string) =>
    layer.weights
      .find((w) => weightName(w) === name)
      ?.read()
      .dataSync() as Float32Array;
  const inner = batchNorm(channels, { eps: config.epsilon as number, momentum: 1 - (config.momentum as number) });
  if (weights === 'initialise') return inner;
  if (values('moving_mean').some((v) => v !== 0) || values('moving_variance').some((v) => v !== 1))
    return refuse(
      'its moving statistics are not at their start, and state cannot be loaded from a tfjs model; use weights: initialise',
    );
  return {
    ...inner,
    params: {
      gain: param([channels], init.values(values('gamma'))),
      bias: param([channels], init.values(values('beta'))),
    },
  };
}

/** `dense_Dense1/kernel` → `kernel`. */
function weightName(variable: KerasVariable): string {
  const parts = variable.originalName.split('/');
  return (parts[parts.length - 1] as string).replaceAll('.', '_');
}

function specOf(
  layer: KerasLayer,
  name: string,
  variable: KerasVariable,
  weights: 'initialise' | 'current',
): ParamSpec {
  const shape = variable.shape.map((dim) => dim as number);
  if (weights === 'current') return param(shape, init.values(variable.read().dataSync().slice() as Float32Array));
  return param(shape, initializerOf(layer, name));
}

const INITIALIZER_PROPERTIES: Readonly<Record<string, string>> = {
  kernel: 'kernelInitializer',
  bias: 'biasInitializer',
  recurrent_kernel: 'recurrentInitializer',
  embeddings: 'embeddingsInitializer',
  gamma: 'gammaInitializer',
  beta: 'betaInitializer',
  alpha: 'alphaInitializer',
  depthwise_kernel: 'depthwiseInitializer',
  pointwise_kernel: 'pointwiseInitializer',
};

/** Plexus' initialiser that draws from the same distribution as the tfjs layer's. */
function initializerOf(layer: KerasLayer, name: string): Initializer {
  const owner = layer as unknown as Record<string, unknown> & { cell?: Record<string, unknown> };
  const property = INITIALIZER_PROPERTIES[name] ?? `${name}Initializer`;
  const found = (owner[property] ?? owner.cell?.[property]) as
    | (Record<string, number | string> & { getClassName(): string })
    | undefined;
  const kind = found?.getClassName();
  const refuse = () => {
    throw new Error(
      `the initialiser ${kind ?? '(none)'} of "${name}" in the tfjs layer "${layer.name}" has no counterpart in Plexus; ` +
        'use one of zeros, ones, constant, random/truncated normal, random uniform, glorot, he, leCun, orthogonal, or weights: current',
    );
  };
  if (!found) return refuse();
  const numberOf = (key: string) => Number(found[key]);
  // An LSTM's forget gate starts at 1: the second quarter of its bias.
  if (name === 'bias' && owner.cell && (owner.cell as { unitForgetBias?: boolean }).unitForgetBias)
    return (_rng, [size]) => new Float32Array(size as number).fill(1, (size as number) / 4, (size as number) / 2);
  if ('distribution' in found)
    return varianceScaling(numberOf('scale'), String(found.mode), String(found.distribution));
  switch (kind) {
    case 'Zeros':
      return init.zeros;
    case 'Ones':
      return init.ones;
    case 'Constant':
      return init.constant(numberOf('value'));
    case 'RandomNormal':
      return (rng, shape) =>
        init
          .normal(numberOf('stddev'))(rng, shape)
          .map((v) => v + numberOf('mean'));
    case 'TruncatedNormal':
      return (rng, shape) =>
        init
          .truncatedNormal(numberOf('stddev'))(rng, shape)
          .map((v) => v + numberOf('mean'));
    case 'RandomUniform':
      return (rng, shape) => rng.fillUniform(init.zeros(rng, shape), numberOf('minval'), numberOf('maxval'));
    case 'Orthogonal':
      return init.orthogonal(numberOf('gain'));
    default:
      return refuse();
  }
}

function varianceScaling(scale: number, mode: string, distribution: string): Initializer {
  return (rng, shape) => {
    const { fanIn, fanOut } = init.fansOf(shape);
    const fan = mode === 'fanIn' ? fanIn : mode === 'fanOut' ? fanOut : (fanIn + fanOut) / 2;
    const variance = scale / Math.max(1, fan);
    return distribution === 'normal'
      ? init.truncatedNormal(Math.sqrt(variance))(rng, shape)
      : init.uniform(Math.sqrt(3 * variance))(rng, shape);
  };
}
