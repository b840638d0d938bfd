import { type Signature, tf, valueAndGradients } from '../../engine/index.ts';
import type { TaskInfo } from '../../modules/index.ts';
import type { Optimizer, ParamInfo } from '../../optim/index.ts';
import type { ModelFunction, TensorsByPath } from './model-function.ts';
import {
  type LocalObjective,
  type LocalPass,
  type LossContext,
  type ObjectiveTensor,
  type ObjectiveTensors,
  objectiveInPass,
} from './objective.ts';

type Tensor = tf.Tensor;

/** An objective's tensor whose shape is known. */
export interface ShapedTensor extends ObjectiveTensor {
  readonly shape: 'param' | readonly number[];
}

/** An objective's tensors for a task. */
export function shapedTensors({ tensors = [] }: LocalObjective, info: TaskInfo): ShapedTensor[] {
  return tensors.map((tensor) => ({
    ...tensor,
    shape: typeof tensor.shape === 'function' ? tensor.shape(info) : tensor.shape,
  }));
}

/** What a function of several local steps is made of. */
export interface StepsOptions {
  readonly model: ModelFunction;
  readonly optimizer: Optimizer;
  readonly clipNorm: number | null;
  readonly objective: LocalObjective;
  /** The objective's tensors, shapes known. */
  readonly tensors: readonly ShapedTensor[];
  readonly pass: LocalPass;
  /** Steps in one run of the function. */
  readonly steps: number;
}

/**
 * Several local training steps as one function. Inputs: parameters; optimizer slots (parameter by parameter); module
 * state; the objective's tensors, each of shape `param` as one for each parameter; keys int32 `[steps, 2]`; the optimizer's
 * scalars and the learning rate float32 `[steps, n + 1]`; in a pass over public examples the batch's places among them, int32
 * `[steps, batch]`; then the batch's inputs and targets, each `[steps, batch, ...]`. Outputs: those parameters and slots that
 * the pass trains, state, the objective's tensors that move, and the steps' losses float32 `[steps]` (the model's or the
 * objective's, without penalties).
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

/** Whether a pass trains each parameter. @throws Error if it trains none */
export function trainedBy(pass: LocalPass, infos: readonly ParamInfo[]): boolean[] {
  const trained = infos.map((info) => pass.trains?.(info) ?? true);
  if (infos.length > 0 && !trained.includes(true))
    throw new Error(
      `the pass "${pass.name}" trains none of the parameters (${infos.map(({ path }) => path).join(', ')}); ` +
        'name paths that the model has, * stands for any characters',
    );
  return trained;
}

/** Builds the function; see `StepsFunction`. */
export function stepsFunction(options: StepsOptions): StepsFunction {
  const { model, optimizer, clipNorm, tensors: kept, pass, steps } = options;
  const objective = objectiveInPass(options.objective, pass);
  const infos = paramInfos(model);
  const trained = trainedBy(pass, infos);
  const slots = infos.map((info) => optimizer.slots(info));
  const scalars = optimizer.scalars(0, 1).length;
  const like = (shape: readonly number[]): Signature => ({ dtype: 'float32', shape });
  const stacked = ({ dtype, shape }: Signature): Signature => ({ dtype, shape: [steps, ...shape] });
  const placed = pass.over === 'public';
  const signature: Signature[] = [
    ...infos.map(({ shape }) => like(shape)),
    ...infos.flatMap(({ shape }, i) => (slots[i] as readonly string[]).map(() => like(shape))),
    ...model.state.map(({ spec }) => like(spec.shape)),
    ...kept.flatMap(({ shape }) => (shape === 'param' ? infos.map((info) => like(info.shape)) : [like(shape)])),
    { dtype: 'int32', shape: [steps, 2] },
    { dtype: 'float32', shape: [steps, scalars + 1] },
    ...(placed ? [{ dtype: 'int32', shape: [steps, model.batch] } as const] : []),
    ...model.inputs.map(stacked),
    ...model.targets.map(stacked),
  ];
  const fn = (...given: Tensor[]): Tensor[] => {
    const take = cursor(given);
    const params = take(infos.length);
    let state = new Map<string, Tensor>();
    const held = slots.map((names) => take(names.length));
    for (const { path } of model.state) state.set(path, take(1)[0] as Tensor);
    let tensors: readonly Kept[] = kept.map(({ name, shape }) => ({
      name,
      shape,
      values: take(shape === 'param' ? infos.length : 1),
    }));
    const [keys, numbers] = take(2).map((tensor) => tf.unstack(tensor)) as [Tensor[], Tensor[]];
    const positions = placed ? tf.unstack(take(1)[0] as Tensor) : null;
    const inputs = take(model.inputs.length).map((tensor) => tf.unstack(tensor));
    const targets = take(model.targets.length).map((tensor) => tf.unstack(tensor));
    const losses: Tensor[] = [];
    for (let step = 0; step < steps; step++) {
      const values = tf.unstack(numbers[step] as Tensor);
      const at = objectiveOf(model, objective, infos, tensors, {
        state: state as TensorsByPath,
        key: keys[step] as Tensor,
        positions: positions?.[step] ?? null,
        inputs: inputs.map((all) => all[step] as Tensor),
        targets: targets.map((all) => all[step] as Tensor),
      });
      const { value, gradients: found } = valueAndGradients(
        () => at(params),
        ({ total }) => total,
        params.filter((_, i) => trained[i]),
      );
      losses.push(value.loss);
      const gradients = new Map(infos.filter((_, i) => trained[i]).map(({ path }, i) => [path, found[i] as Tensor]));
      if (objective.step) {
        const changes = objective.step({
          ...value.context,
          gradients: new Map(gradients),
          lr: values[scalars] as Tensor,
          gradientsAt: (others) => {
            const list = infos.map(({ path }) => others.get(path) as Tensor);
            const { gradients: there } = valueAndGradients(
              () => at(list),
              ({ total }) => total,
              list,
            );
            return new Map(infos.map(({ path }, i) => [path, there[i] as Tensor]));
          },
        });
        for (const [path, gradient] of changes.gradients ?? []) if (gradients.has(path)) gradients.set(path, gradient);
        tensors = moved(tensors, kept, changes.tensors ?? {}, infos, objective.name);
      }
      state = new Map([...state, ...value.state]);
      const own = (i: number) => ofParam(tensors, i);
      const shaped = infos.flatMap((info, i) => {
        const gradient = gradients.get(info.path);
        if (!gradient) return [];
        const changed = objective.transform?.(gradient, params[i] as Tensor, own(i), info) ?? gradient;
        return [{ i, gradient: changed }];
      });
      const clipped = clipNorm === null ? shaped.map(({ gradient }) => gradient) : clip(shaped, clipNorm);
      for (const [n, { i }] of shaped.entries()) {
        const info = infos[i] as ParamInfo;
        const [param, ...rest] = optimizer.update(
          params[i] as Tensor,
          clipped[n] as Tensor,
          held[i] as Tensor[],
          values.slice(0, scalars),
          info,
        );
        params[i] = param as Tensor;
        held[i] = rest;
      }
    }
    return [
      ...params.filter((_, i) => trained[i]),
      ...held.filter((_, i) => trained[i]).flat(),
      ...model.state.map(({ path }) => state.get(path) as Tensor),
      ...tensors.flatMap(({ values }, i) => (kept[i]?.moves ? values : [])),
      tf.stack(losses),
    ];
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

/** The tensors after a step has changed some. @throws Error for one that was not declared to move */
function moved(
  tensors: readonly Kept[],
  declared: readonly ShapedTensor[],
  changes: Readonly<Record<string, Tensor | TensorsByPath>>,
  infos: readonly ParamInfo[],
  objective: string,
): Kept[] {
  for (const name of Object.keys(changes))
    if (!declared.some((tensor) => tensor.name === name && tensor.moves))
      throw new Error(
        `a step of objective "${objective}" changed "${name}", which is not declared with \`moves: true\``,
      );
  return tensors.map((tensor) => {
    const change = changes[tensor.name];
    if (!change) return tensor;
    const values =
      change instanceof Map
        ? infos.map(({ path }, i) => (change.get(path) ?? tensor.values[i]) as Tensor)
        : [change as Tensor];
    return { ...tensor, values };
  });
}

/** The objective on one batch, as a function of the parameters. */
function objectiveOf(
  model: ModelFunction,
  objective: LocalObjective,
  infos: readonly ParamInfo[],
  tensors: readonly Kept[],
  now: {
    readonly state: TensorsByPath;
    readonly key: Tensor;
    readonly positions: Tensor | null;
    readonly inputs: readonly Tensor[];
    readonly targets: readonly Tensor[];
  },
) {
  const byPath = (values: readonly Tensor[]) => new Map(infos.map(({ path }, i) => [path, values[i] as Tensor]));
  const { state, key, positions, inputs, targets } = now;
  const find = (name: string): Kept => {
    const found = tensors.find((tensor) => tensor.name === name);
    if (!found) throw new Error(`objective "${objective.name}" did not declare a tensor "${name}"`);
    return found;
  };
  return (values: readonly Tensor[]) => {
    const params = byPath(values);
    const forward = model.forward({ params, state, key, inputs });
    const context: LossContext = {
      params,
      inputs,
      targets,
      forward,
      positions,
      apply: (other, others = inputs) => model.forward({ params: other, state, key, inputs: others }),
      tensors: (name) => byPath(find(name).values),
      tensor: (name) => find(name).values[0] as Tensor,
      modelLoss: model.loss,
    };
    const loss = objective.loss?.(context) ?? model.loss(forward.outputs, targets);
    const terms = infos.flatMap((info, i) => {
      const term = objective.penalty?.(values[i] as Tensor, ofParam(tensors, i), info);
      return term ? [term] : [];
    });
    const total = [forward.auxiliary, ...terms].reduce((sum, term) => tf.add(sum, term), loss);
    return { loss, total, state: forward.state, context };
  };
}

/** Scales gradients so that their norm over all parameters is at most `limit`. */
function clip(given: readonly { readonly gradient: Tensor }[], limit: number): Tensor[] {
  const gradients = given.map(({ gradient }) => gradient);
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
