import { type Signature, tf, valueAndGradients } from '../../engine/index.ts';
import type { Optimizer, ParamInfo } from '../../optim/index.ts';
import type { ModelFunction, TensorsByPath } from './model-function.ts';
import type { LocalObjective, ObjectiveTensors } from './objective.ts';

type Tensor = tf.Tensor;

/** What a function of several local steps is made of. */
export interface StepsOptions {
  readonly model: ModelFunction;
  readonly optimizer: Optimizer;
  readonly clipNorm: number | null;
  readonly objective: LocalObjective;
  /** Steps in one run of the function. */
  readonly steps: number;
}

/**
 * Several local training steps as one function. Inputs: parameters; optimizer slots (parameter by parameter); module
 * state; the objective's tensors, each of shape `param` as one for each parameter; keys int32 `[steps, 2]`; the optimizer's
 * scalars float32 `[steps, n]`; then the batch's inputs and targets, each `[steps, batch, ...]`. Outputs: parameters,
 * slots, state, and the steps' losses float32 `[steps]` (the model's or the objective's, without penalties).
 */
export interface StepsFunction {
  readonly fn: (...given: Tensor[]) => Tensor[];
  readonly signature: readonly Signature[];
  readonly slots: readonly (readonly string[])[];
}

/** How the optimizer and the objective know a parameter. */
export function paramInfos({ params }: Pick<ModelFunction, 'params'>): ParamInfo[] {
  return params.map(({ path, spec }) => ({ path, shape: spec.shape, decay: spec.decay }));
}

/** Builds the function; see `StepsFunction`. */
export function stepsFunction({ model, optimizer, clipNorm, objective, steps }: StepsOptions): StepsFunction {
  const infos = paramInfos(model);
  const slots = infos.map((info) => optimizer.slots(info));
  const scalars = optimizer.scalars(0, 1).length;
  const kept = objective.tensors ?? [];
  const like = (shape: readonly number[]): Signature => ({ dtype: 'float32', shape });
  const stacked = ({ dtype, shape }: Signature): Signature => ({ dtype, shape: [steps, ...shape] });
  const signature: Signature[] = [
    ...infos.map(({ shape }) => like(shape)),
    ...infos.flatMap(({ shape }, i) => (slots[i] as readonly string[]).map(() => like(shape))),
    ...model.state.map(({ spec }) => like(spec.shape)),
    ...kept.flatMap(({ shape }) => (shape === 'param' ? infos.map((info) => like(info.shape)) : [like(shape)])),
    { dtype: 'int32', shape: [steps, 2] },
    { dtype: 'float32', shape: [steps, scalars] },
    ...model.inputs.map(stacked),
    ...model.targets.map(stacked),
  ];
  const fn = (...given: Tensor[]): Tensor[] => {
    const take = cursor(given);
    let params = take(infos.length);
    let state = new Map<string, Tensor>();
    let held = slots.map((names) => take(names.length));
    for (const { path } of model.state) state.set(path, take(1)[0] as Tensor);
    const tensors = kept.map(({ name, shape }) => ({
      name,
      shape,
      values: take(shape === 'param' ? infos.length : 1),
    }));
    const [keys, numbers] = take(2).map((tensor) => tf.unstack(tensor)) as [Tensor[], Tensor[]];
    const inputs = take(model.inputs.length).map((tensor) => tf.unstack(tensor));
    const targets = take(model.targets.length).map((tensor) => tf.unstack(tensor));
    const losses: Tensor[] = [];
    for (let step = 0; step < steps; step++) {
      const batch = {
        inputs: inputs.map((all) => all[step] as Tensor),
        targets: targets.map((all) => all[step] as Tensor),
      };
      const now = { params, state: state as TensorsByPath, key: keys[step] as Tensor, ...batch };
      const { value, gradients } = valueAndGradients(
        () => objectiveOf(model, objective, infos, tensors, now),
        ({ total }) => total,
        params,
      );
      losses.push(value.loss);
      state = new Map([...state, ...value.state]);
      const own = (i: number) => ofParam(tensors, i);
      const shaped = gradients.map((gradient, i) =>
        objective.transform
          ? objective.transform(gradient, params[i] as Tensor, own(i), infos[i] as ParamInfo)
          : gradient,
      );
      const clipped = clipNorm === null ? shaped : clip(shaped, clipNorm);
      const values = tf.unstack(numbers[step] as Tensor);
      const updated = clipped.map((gradient, i) =>
        optimizer.update(params[i] as Tensor, gradient, held[i] as Tensor[], values, infos[i] as ParamInfo),
      );
      params = updated.map(([param]) => param as Tensor);
      held = updated.map(([, ...rest]) => [...rest]);
    }
    return [...params, ...held.flat(), ...model.state.map(({ path }) => state.get(path) as Tensor), tf.stack(losses)];
  };
  return { fn, signature, slots };
}

interface Kept {
  readonly name: string;
  readonly shape: 'param' | readonly number[];
  readonly values: readonly Tensor[];
}

/** The objective's tensors as one parameter sees them. */
export function ofParam(tensors: readonly Kept[], index: number): ObjectiveTensors {
  return Object.fromEntries(
    tensors.map(({ name, shape, values }) => [name, values[shape === 'param' ? index : 0] as Tensor]),
  );
}

function objectiveOf(
  model: ModelFunction,
  objective: LocalObjective,
  infos: readonly ParamInfo[],
  tensors: readonly Kept[],
  now: {
    readonly params: readonly Tensor[];
    readonly state: TensorsByPath;
    readonly key: Tensor;
    readonly inputs: readonly Tensor[];
    readonly targets: readonly Tensor[];
  },
) {
  const byPath = (values: readonly Tensor[]) => new Map(infos.map(({ path }, i) => [path, values[i] as Tensor]));
  const params = byPath(now.params);
  const { state, key, inputs, targets } = now;
  const forward = model.forward({ params, state, key, inputs });
  const find = (name: string): Kept => {
    const found = tensors.find((tensor) => tensor.name === name);
    if (!found) throw new Error(`objective "${objective.name}" did not declare a tensor "${name}"`);
    return found;
  };
  const loss = objective.loss
    ? objective.loss({
        params,
        inputs,
        targets,
        forward,
        apply: (other, others = inputs) => model.forward({ params: other, state, key, inputs: others }),
        tensors: (name) => byPath(find(name).values),
        tensor: (name) => find(name).values[0] as Tensor,
        modelLoss: model.loss,
      })
    : model.loss(forward.outputs, targets);
  const terms = infos.flatMap((info, i) => {
    const term = objective.penalty?.(now.params[i] as Tensor, ofParam(tensors, i), info);
    return term ? [term] : [];
  });
  const total = [forward.auxiliary, ...terms].reduce((sum, term) => tf.add(sum, term), loss);
  return { loss, total, state: forward.state };
}

/** Scales gradients so that their norm over all parameters is at most `limit`. */
function clip(gradients: readonly Tensor[], limit: number): Tensor[] {
  const squares = gradients.map((gradient) => tf.sum(tf.square(gradient)));
  const norm = tf.sqrt(squares.reduce((sum, square) => tf.add(sum, square)));
  const scale = tf.minimum(tf.div(limit, tf.add(norm, 1e-6)), 1);
  return gradients.map((gradient) => tf.mul(gradient, scale));
}

/** Takes the next few of a list, again and again. */
function cursor(given: readonly Tensor[]): (count: number) => Tensor[] {
  let at = 0;
  return (count) => {
    at += count;
    return given.slice(at - count, at);
  };
}
