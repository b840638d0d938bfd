import { tf } from '../../engine/index.ts';
import type { ParamInfo } from '../../optim/index.ts';
import type { ModelForward, TensorsByPath } from './model-function.ts';

type Tensor = tf.Tensor;

/**
 * A tensor that an objective keeps besides the parameters. `param`: one for each parameter, of its shape. A list of
 * numbers: a single one of that shape.
 */
export interface ObjectiveTensor {
  readonly name: string;
  readonly shape: 'param' | readonly number[];
  /**
   * `round`: given by whoever asks for the fit, the same for everybody (SCAFFOLD's server variate). `client`: belongs to
   * whose data it is, kept from fit to fit, zeros at first (SCAFFOLD's own variate, FedDyn's correction). `start`: the
   * parameters as they were when the fit began (the anchor of FedProx); nobody has to give them.
   */
  readonly scope: 'round' | 'client' | 'start';
}

/** Tensors of an objective by name: of one parameter where `shape` is `param`, else the tensor itself. */
export type ObjectiveTensors = Readonly<Record<string, Tensor>>;

/** What the loss of a local step can use. All traced. */
export interface LossContext {
  readonly params: TensorsByPath;
  readonly inputs: readonly Tensor[];
  readonly targets: readonly Tensor[];
  /** Forward of this step's batch with the current parameters; computed once. */
  readonly forward: ModelForward;
  /** Forward with other parameters (a teacher, the global model), on this batch or on other inputs of its size. */
  apply(params: TensorsByPath, inputs?: readonly Tensor[]): ModelForward;
  /** The objective's tensors of shape `param`, by name, then by path. */
  tensors(name: string): TensorsByPath;
  /** One of the objective's tensors of a shape of its own. */
  tensor(name: string): Tensor;
  /** The model's own loss. */
  modelLoss(outputs: readonly Tensor[], targets: readonly Tensor[]): Tensor;
}

/** What is known when a fit has ended. All traced. */
export interface AfterContext {
  readonly start: Tensor;
  readonly param: Tensor;
  readonly tensors: ObjectiveTensors;
  /** Local steps that were made, and their learning rate: float32 scalars. */
  readonly steps: Tensor;
  readonly lr: Tensor;
}

/**
 * What happens near the data, as traced functions: extra loss terms, gradient transforms, what is kept and sent besides
 * the parameters. FedProx, SCAFFOLD, EWC, LwF and their like are local objectives; federated schedulers and continual
 * ones use the same, so that every one of these composes with every one of those. All members are optional: without any it
 * is plain training on the model's loss.
 */
export interface LocalObjective {
  readonly name: string;
  readonly tensors?: readonly ObjectiveTensor[];
  /** Takes the place of the model's loss. A float32 scalar; auxiliary losses of modules are added to it. */
  loss?(context: LossContext): Tensor;
  /** Added to the loss for each parameter: a float32 scalar, or null for none. */
  penalty?(param: Tensor, tensors: ObjectiveTensors, info: ParamInfo): Tensor | null;
  /** Changes the gradient of one parameter before the optimizer sees it. */
  transform?(gradient: Tensor, param: Tensor, tensors: ObjectiveTensors, info: ParamInfo): Tensor;
  /** New values of the objective's `client` tensors of one parameter, once the fit has ended. */
  after?(context: AfterContext, info: ParamInfo): ObjectiveTensors;
  /** Parameters that stay where they are: never sent, never averaged (FedPer's head, FedBN's norms). */
  personal?(info: ParamInfo): boolean;
}

/** Plain training: `objective: none`. */
export const plainObjective: LocalObjective = { name: 'none' };

/** Several objectives as one: losses by the last that has one, penalties added, transforms one after another. */
export function composeObjectives(objectives: readonly LocalObjective[]): LocalObjective {
  const [only] = objectives;
  if (objectives.length === 1 && only) return only;
  const own = (objective: LocalObjective, tensors: ObjectiveTensors): ObjectiveTensors =>
    Object.fromEntries(
      (objective.tensors ?? []).flatMap(({ name }) => {
        const tensor = tensors[`${objective.name}.${name}`];
        return tensor ? [[name, tensor]] : [];
      }),
    );
  const losses = objectives.filter((objective) => objective.loss);
  if (losses.length > 1)
    throw new Error(
      `${losses.map(({ name }) => name).join(' and ')} each take the place of the model's loss; use one of them at a time`,
    );
  const penalties = objectives.filter((objective) => objective.penalty);
  const transforms = objectives.filter((objective) => objective.transform);
  const afters = objectives.filter((objective) => objective.after);
  const loss = losses[0];
  return {
    name: objectives.map(({ name }) => name).join('+') || plainObjective.name,
    tensors: objectives.flatMap((objective) =>
      (objective.tensors ?? []).map((tensor) => ({ ...tensor, name: `${objective.name}.${tensor.name}` })),
    ),
    ...(loss?.loss
      ? {
          loss: (context: LossContext) =>
            (loss.loss as NonNullable<LocalObjective['loss']>)({
              ...context,
              tensors: (name) => context.tensors(`${loss.name}.${name}`),
              tensor: (name) => context.tensor(`${loss.name}.${name}`),
            }),
        }
      : {}),
    ...(penalties.length > 0
      ? {
          penalty: (param: Tensor, tensors: ObjectiveTensors, info: ParamInfo) =>
            penalties
              .map((objective) => objective.penalty?.(param, own(objective, tensors), info) ?? null)
              .reduce((sum, term) => (sum && term ? tf.add(sum, term) : (sum ?? term)), null),
        }
      : {}),
    ...(transforms.length > 0
      ? {
          transform: (gradient: Tensor, param: Tensor, tensors: ObjectiveTensors, info: ParamInfo) =>
            transforms.reduce(
              (current, objective) => objective.transform?.(current, param, own(objective, tensors), info) ?? current,
              gradient,
            ),
        }
      : {}),
    ...(afters.length > 0
      ? {
          after: (context: AfterContext, info: ParamInfo) =>
            Object.fromEntries(
              afters.flatMap((objective) =>
                Object.entries(
                  objective.after?.({ ...context, tensors: own(objective, context.tensors) }, info) ?? {},
                ).map(([name, tensor]) => [`${objective.name}.${name}`, tensor]),
              ),
            ),
        }
      : {}),
    personal: (info: ParamInfo) => objectives.some((objective) => objective.personal?.(info) ?? false),
  };
}
