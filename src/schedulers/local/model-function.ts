import type { Signature } from '../../engine/index.ts';
import { tf } from '../../engine/index.ts';
import {
  type LayerFunction,
  LOSS_PATH,
  layerFunction,
  type Model,
  modelParams,
  modelState,
  type Named,
  type ParamSpec,
  type StateSpec,
  type TaskInfo,
} from '../../modules/index.ts';

type Tensor = tf.Tensor;

/** Tensors of a model by absolute path. */
export type TensorsByPath = ReadonlyMap<string, Tensor>;

/** What one forward of a whole model gave. */
export interface ModelForward {
  /** What the last layer returned: logits, say. */
  readonly outputs: readonly Tensor[];
  /** First output of each layer, in order: the second to last is what a classifier calls features. */
  readonly activations: readonly Tensor[];
  /** Sum of the auxiliary losses that modules added; a float32 scalar. */
  readonly auxiliary: Tensor;
  /** New values of the module state that changed (running statistics). */
  readonly state: TensorsByPath;
  /** What this batch contributed to module state, before it was folded in: the batch's own statistics, say. */
  readonly contributions: TensorsByPath;
}

/** A whole model as traced functions of named tensors, for batches of one size: for training where nothing is sharded. */
export interface ModelFunction {
  readonly batch: number;
  readonly params: readonly Named<ParamSpec>[];
  readonly state: readonly Named<StateSpec>[];
  /** Signatures of a batch, the batch dimension included. */
  readonly inputs: readonly Signature[];
  readonly targets: readonly Signature[];
  forward(given: ForwardInputs): ModelForward;
  /** The model's own loss of its outputs: the mean over the batch, a float32 scalar. */
  loss(outputs: readonly Tensor[], targets: readonly Tensor[]): Tensor;
}

/** What a forward reads. */
export interface ForwardInputs {
  readonly params: TensorsByPath;
  readonly state: TensorsByPath;
  /** int32 `[2]`, as `layerKey` makes it: what dropout and the like are drawn from. */
  readonly key: Tensor;
  readonly inputs: readonly Tensor[];
}

/**
 * Composes the layers of a model, experts included: each runs on every row, and keeps those that are its own.
 * @throws ModuleError naming the layer, if the model does not fit the task
 */
export function modelFunction(
  model: Model,
  info: TaskInfo,
  batch: number,
  { training }: { readonly training: boolean },
): ModelFunction {
  const batched = ({ dtype, shape }: Signature): Signature => ({ dtype, shape: [batch, ...shape] });
  const inputs = info.inputs.map(batched);
  const targets = info.targets.map(batched);
  const layers: LayerFunction[] = [];
  let signatures: readonly Signature[] = inputs;
  for (const layer of model.layers) {
    // Nothing is sharded here, so experts are part of the layer.
    const made = layerFunction(layer, signatures, { training, experts: 'here' });
    layers.push(made);
    signatures = made.layout.activations;
  }
  const loss = layerFunction({ name: LOSS_PATH, module: model.loss }, [...signatures, ...targets], { training });
  const params = modelParams(model);
  const state = modelState(model);
  const specOf = new Map(state.map(({ path, spec }) => [path, spec]));

  const call = (layer: LayerFunction, given: Omit<ForwardInputs, 'inputs'>, tensors: readonly Tensor[]) => {
    const find = (from: TensorsByPath, path: string): Tensor => {
      const found = from.get(path);
      if (!found) throw new Error(`layer "${layer.name}" needs "${path}", which was not given`);
      return found;
    };
    const outputs = layer.fn(
      ...layer.params.map(({ path }) => find(given.params, path)),
      ...layer.state.map(({ path }) => find(given.state, path)),
      given.key,
      ...tensors,
    ) as readonly Tensor[];
    const { objective, metrics, contributions } = layer.layout;
    return {
      activations: outputs.slice(0, objective),
      auxiliary: outputs[objective] as Tensor,
      contributions: contributions.map((path, i) => [path, outputs[objective + 1 + metrics.length + i]] as const),
    };
  };
  return {
    batch,
    params,
    state,
    inputs,
    targets,
    forward: (given) => {
      let current = given.inputs;
      const activations: Tensor[] = [];
      const auxiliary: Tensor[] = [];
      const changed = new Map<string, Tensor>();
      const contributed = new Map<string, Tensor>();
      for (const layer of layers) {
        const result = call(layer, given, current);
        current = result.activations;
        activations.push(current[0] as Tensor);
        auxiliary.push(result.auxiliary);
        for (const [path, contribution] of result.contributions) {
          const spec = specOf.get(path) as StateSpec;
          contributed.set(path, contribution as Tensor);
          changed.set(path, spec.update(given.state.get(path) as Tensor, contribution as Tensor, 1));
        }
      }
      return {
        outputs: current,
        activations,
        auxiliary: auxiliary.reduce((a, b) => tf.add(a, b)),
        state: changed,
        contributions: contributed,
      };
    },
    loss: (outputs, labels) => {
      const key = tf.zeros([2], 'int32');
      const { activations } = call(loss, { params: new Map(), state: new Map(), key }, [...outputs, ...labels]);
      return activations[0] as Tensor;
    },
  };
}
