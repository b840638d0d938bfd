import { tf } from '../../engine/index.ts';
import type { TaskInfo } from '../../modules/index.ts';
import type { ParamInfo } from '../../optim/index.ts';
import type { ModelForward, TensorsByPath } from './model-function.ts';

type Tensor = tf.Tensor;

/**
 * A tensor that an objective keeps besides the parameters. `param`: one for each parameter, of its shape. A list of
 * numbers, or a function of the task that gives one: a single tensor of that shape.
 */
export interface ObjectiveTensor {
  readonly name: string;
  readonly shape: 'param' | readonly number[] | ((info: TaskInfo) => readonly number[]);
  /**
   * `round`: given by whoever asks for the fit, the same for everybody (SCAFFOLD's server variate). `client`: belongs to
   * whose data it is, kept from fit to fit (SCAFFOLD's own variate, FedDyn's correction, Ditto's model). `fit`: lives for one
   * fit only. `start`: the parameters as they were when the fit began (the anchor of FedProx); nobody has to give them.
   */
  readonly scope: 'round' | 'client' | 'fit' | 'start';
  /**
   * What a `client` or `fit` tensor is before there is any: this number everywhere (default 0), or, of shape `param`, the
   * parameters that the fit begins with. `class-counts`: how many of the fit's examples each class has (a `fit` tensor of shape
   * `[classes]`).
   */
  readonly initial?: number | 'start' | 'class-counts';
  /** Changed by `step`: it is handed on from one local step to the next. */
  readonly moves?: boolean;
  /** A `round` tensor that may be absent: zeros then. */
  readonly optional?: boolean;
  /** A `client` tensor that the server is shown after each fit, and so is sent with the update. */
  readonly sent?: boolean;
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
  /** Places of the batch's examples among the public ones, int32 `[batch]`; null in a pass over the client's own. */
  readonly positions: Tensor | null;
}

/** What is known when the gradient of a local step is. All traced. */
export interface StepContext extends LossContext {
  /** Of loss and penalties, by path; of those parameters only that the pass trains. */
  readonly gradients: TensorsByPath;
  /** Learning rate of the step: a float32 scalar. */
  readonly lr: Tensor;
  /** The same gradient on the same batch, but at other parameters (all of them). */
  gradientsAt(params: TensorsByPath): TensorsByPath;
}

/** What a step's hook changes. */
export interface StepChanges {
  /** Take the place of the gradients, by path; the others stay. */
  readonly gradients?: TensorsByPath;
  /** New values of tensors that move, by name: by path where they have the parameters' shapes. */
  readonly tensors?: Readonly<Record<string, Tensor | TensorsByPath>>;
}

/** What is known when a fit has ended. All traced. */
export interface AfterContext {
  readonly start: Tensor;
  readonly param: Tensor;
  readonly tensors: ObjectiveTensors;
  /**
   * `Optimizer.pathLength` of the local steps that were made (NaN where the optimizer has none), and their learning rate: float32
   * scalars.
   */
  readonly length: Tensor;
  readonly lr: Tensor;
}

/**
 * One pass of a fit: some epochs over some examples. Without passes of its own an objective has a single one, over the
 * client's examples, that trains all parameters. Each pass begins with fresh optimizer state.
 */
export interface LocalPass {
  /** Told apart by it: random keys and orders of examples follow the name; the empty one has those of a fit without passes. */
  readonly name: string;
  /** The client's own examples (default), or those that the federation has set aside for all to see. */
  readonly over?: 'own' | 'public';
  /** Default: as many as the fit is asked for. */
  readonly epochs?: number;
  /** Only in the first fit of a client, or only where this `round` tensor was given. Default: always. */
  readonly when?: 'first' | { readonly given: string };
  /** Parameters that move; the others stay as they are. Default all. */
  trains?(info: ParamInfo): boolean;
  /** A `client` tensor of shape `param` which is trained in place of the parameters, as a model of the client's own. */
  readonly into?: string;
  /** Takes the place of the objective's loss. */
  loss?(context: LossContext): Tensor;
  /** Added to the objective's penalty. */
  penalty?: LocalObjective['penalty'];
}

/** Something that a client looks up with the model in evaluation mode, and sends besides its update. */
export interface Reading {
  readonly name: string;
  /** The parameters that the fit began with, or ended with. */
  readonly at: 'start' | 'end';
  /** `loss`: mean loss on its own examples, one number. `outputs`: the model's outputs for each public example, in order. */
  readonly what: 'loss' | 'outputs';
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
  /** Looks at a whole step before its gradients are used: may change them, and the tensors that move. */
  step?(context: StepContext): StepChanges;
  /** Changes the gradient of one parameter before the optimizer sees it. */
  transform?(gradient: Tensor, param: Tensor, tensors: ObjectiveTensors, info: ParamInfo): Tensor;
  /** New values of the objective's `client` tensors of one parameter, once the fit has ended. */
  after?(context: AfterContext, info: ParamInfo): ObjectiveTensors;
  /** New values of the objective's `client` tensors of shapes of their own, once the fit has ended. */
  finish?(tensors: ObjectiveTensors): ObjectiveTensors;
  /** Parameters that stay where they are: never sent, never averaged (FedPer's head, FedBN's norms). */
  personal?(info: ParamInfo): boolean;
  /** Passes of a fit, one after another. Those that train the parameters continue where the one before has ended. */
  readonly passes?: readonly LocalPass[];
  /** What is sent besides the update. */
  readonly readings?: readonly Reading[];
  /** A parameter of the client's own model, from the server's (own layers already in place) and the `client` tensors. */
  own?(param: Tensor, tensors: ObjectiveTensors, info: ParamInfo): Tensor;
}

/** Plain training: `objective: none`. */
export const plainObjective: LocalObjective = { name: 'none' };

/** The only pass of objectives without passes. */
export const plainPass: LocalPass = { name: '' };

/** An objective as one of its passes sees it. */
export function objectiveInPass(objective: LocalObjective, { loss, penalty }: LocalPass): LocalObjective {
  if (!loss && !penalty) return objective;
  const common = objective.penalty;
  return {
    ...objective,
    ...(loss ? { loss } : {}),
    ...(penalty
      ? {
          penalty: (param: Tensor, tensors: ObjectiveTensors, info: ParamInfo) =>
            sumOf([common?.(param, tensors, info), penalty(param, tensors, info)]),
        }
      : {}),
  };
}

/**
 * Several objectives as one: penalties are added, transforms applied one after another. Names of tensors and readings get
 * their objective's name in front.
 * @throws Error if two of them each want to be the only one: a loss, a step, passes, an own model
 */
export function composeObjectives(objectives: readonly LocalObjective[]): LocalObjective {
  const [first] = objectives;
  if (objectives.length === 1 && first) return first;
  const named = objectives.map(prefixed);
  const only = <K extends 'loss' | 'step' | 'passes' | 'own'>(key: K, what: string) => {
    const having = named.filter((objective) => objective[key]);
    if (having.length > 1)
      throw new Error(`${having.map(({ name }) => name).join(' and ')} each ${what}; use one of them at a time`);
    return having[0]?.[key] ? { [key]: having[0][key] } : {};
  };
  const penalties = named.flatMap(({ penalty }) => (penalty ? [penalty] : []));
  const transforms = named.flatMap(({ transform }) => (transform ? [transform] : []));
  const afters = named.flatMap(({ after }) => (after ? [after] : []));
  const finishes = named.flatMap(({ finish }) => (finish ? [finish] : []));
  return {
    name: objectives.map(({ name }) => name).join('+') || plainObjective.name,
    tensors: named.flatMap(({ tensors = [] }) => tensors),
    readings: named.flatMap(({ readings = [] }) => readings),
    ...only('loss', "take the place of the model's loss"),
    ...only('step', 'look at whole steps'),
    ...only('passes', 'have passes of their own'),
    ...only('own', 'make a model of the client'),
    ...(penalties.length > 0
      ? {
          penalty: (param: Tensor, tensors: ObjectiveTensors, info: ParamInfo) =>
            sumOf(penalties.map((penalty) => penalty(param, tensors, info))),
        }
      : {}),
    ...(transforms.length > 0
      ? {
          transform: (gradient: Tensor, param: Tensor, tensors: ObjectiveTensors, info: ParamInfo) =>
            transforms.reduce((current, transform) => transform(current, param, tensors, info), gradient),
        }
      : {}),
    ...(afters.length > 0
      ? {
          after: (context: AfterContext, info: ParamInfo) =>
            Object.assign({}, ...afters.map((after) => after(context, info))) as ObjectiveTensors,
        }
      : {}),
    ...(finishes.length > 0
      ? {
          finish: (tensors: ObjectiveTensors) =>
            Object.assign({}, ...finishes.map((finish) => finish(tensors))) as ObjectiveTensors,
        }
      : {}),
    personal: (info: ParamInfo) => objectives.some((objective) => objective.personal?.(info) ?? false),
  };
}

/** The same objective with its own name in front of those of its tensors and readings. */
function prefixed(objective: LocalObjective): LocalObjective {
  const full = (name: string) => `${objective.name}.${name}`;
  const own = (tensors: ObjectiveTensors): ObjectiveTensors =>
    Object.fromEntries(
      (objective.tensors ?? []).flatMap(({ name }) => {
        const tensor = tensors[full(name)];
        return tensor ? [[name, tensor]] : [];
      }),
    );
  const renamed = <T>(values: Readonly<Record<string, T>>): Record<string, T> =>
    Object.fromEntries(Object.entries(values).map(([name, value]) => [full(name), value]));
  const within = <C extends LossContext>(context: C): C => ({
    ...context,
    tensors: (name: string) => context.tensors(full(name)),
    tensor: (name: string) => context.tensor(full(name)),
  });
  const { loss, penalty, step, transform, after, finish, own: ownModel, passes } = objective;
  const lossWithin = (inner: NonNullable<LocalObjective['loss']>) => (context: LossContext) => inner(within(context));
  const penaltyWithin =
    (inner: NonNullable<LocalObjective['penalty']>): NonNullable<LocalObjective['penalty']> =>
    (param, tensors, info) =>
      inner(param, own(tensors), info);
  return {
    ...objective,
    tensors: (objective.tensors ?? []).map((tensor) => ({ ...tensor, name: full(tensor.name) })),
    readings: (objective.readings ?? []).map((reading) => ({ ...reading, name: full(reading.name) })),
    ...(loss ? { loss: lossWithin(loss) } : {}),
    ...(penalty ? { penalty: penaltyWithin(penalty) } : {}),
    ...(step
      ? {
          step: (context: StepContext) => {
            const { tensors, ...rest } = step(within(context));
            return { ...rest, ...(tensors ? { tensors: renamed(tensors) } : {}) };
          },
        }
      : {}),
    ...(transform
      ? {
          transform: (gradient: Tensor, param: Tensor, tensors: ObjectiveTensors, info: ParamInfo) =>
            transform(gradient, param, own(tensors), info),
        }
      : {}),
    ...(after
      ? {
          after: (context: AfterContext, info: ParamInfo) =>
            renamed(after({ ...context, tensors: own(context.tensors) }, info)),
        }
      : {}),
    ...(finish ? { finish: (tensors: ObjectiveTensors) => renamed(finish(own(tensors))) } : {}),
    ...(ownModel
      ? {
          own: (param: Tensor, tensors: ObjectiveTensors, info: ParamInfo) => ownModel(param, own(tensors), info),
        }
      : {}),
    ...(passes
      ? {
          passes: passes.map((pass) => ({
            ...pass,
            ...(pass.into === undefined ? {} : { into: full(pass.into) }),
            ...(typeof pass.when === 'object' ? { when: { given: full(pass.when.given) } } : {}),
            ...(pass.loss ? { loss: lossWithin(pass.loss) } : {}),
            ...(pass.penalty ? { penalty: penaltyWithin(pass.penalty) } : {}),
          })),
        }
      : {}),
  };
}

function sumOf(terms: readonly (Tensor | null | undefined)[]): Tensor | null {
  return terms.reduce<Tensor | null>((sum, term) => (sum && term ? tf.add(sum, term) : (sum ?? term ?? null)), null);
}
