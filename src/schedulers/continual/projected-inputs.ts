import { tf } from '../../engine/index.ts';
import { type Context, type Model, type Module, modelParams, nn, type Tensors, walk } from '../../modules/index.ts';
import type { ParamRule } from '../../optim/index.ts';
import type { Transition } from '../../worker/index.ts';
import { changeModules } from './change-modules.ts';
import { emptyOptimizer } from './known-task.ts';
import type { ScenarioShape } from './scenario.ts';
import type { TaskEnd } from './strategy.ts';

type Tensor = tf.Tensor;

/** Kinds of modules with a `weight` `[in, out]` that the activity of their inputs is multiplied by. */
const PROJECTED = ['linear', 'synapses'];
/** Marks a module whose inputs are projected. */
const MARK = ' of projected inputs';

/** What a method adds to each layer. */
export interface InputProjection extends Pick<Module, 'state'> {
  /** Parameters that only the host changes; their names are in `HELD`. */
  readonly params: NonNullable<Module['params']>;
  /**
   * The part of presynaptic activity `[rows, in]` that weights may learn from: the gradient of a weight is its product with that of
   * the outputs, so what is left out here is a direction in which no weight moves. Of no gradient itself.
   */
  project(rows: Tensor, params: Tensors, ctx: Context): Tensor;
}

/** Names of parameters that no step changes. */
const HELD = ['projection', 'stage'] as const;
const isHeld = (path: string): boolean => HELD.some((name) => path.endsWith(`.${name}`));

/**
 * A model whose linear and spiking layers learn from projected inputs. Outputs are as ever. Where the task is known the last layer is
 * left out: each task has outputs of its own there. `make`: for a layer with so many inputs.
 */
export function withProjectedInputs(
  model: Model,
  { taskKnown, outputs }: ScenarioShape,
  make: (inputs: number) => InputProjection,
): Model {
  const last = model.layers.at(-1)?.name;
  return changeModules(model, (module, path) => {
    const [inputs, width] = module.params?.weight?.shape ?? [];
    if (!PROJECTED.includes(module.kind) || inputs === undefined) return module;
    if (taskKnown && width === outputs && path.startsWith(`${last}.`)) return module;
    const { params, state, project } = make(inputs);
    return {
      kind: `${module.kind}${MARK}`,
      params: { ...module.params, ...params },
      ...(state ? { state } : {}),
      forward(own, [x, trace = x], ctx) {
        const rows = (each: Tensor): Tensor => tf.reshape(each, [-1, inputs]);
        const input = x as Tensor;
        const before = rows(trace as Tensor);
        if (!ctx.training) ctx.metric('input', tf.reshape(before, [input.shape[0] as number, -1]));
        const given = ctx.training ? project(before, own, ctx) : before;
        const y = nn.productWithTrace(rows(input), given, own.weight as Tensor);
        const shape = [...input.shape.slice(0, -1), width as number];
        return tf.reshape(own.bias ? tf.add(y, own.bias) : y, shape);
      },
    };
  });
}

/** Paths of the layers whose inputs are projected, with their numbers of inputs. */
export function projectedLayers(model: Model): { readonly path: string; readonly inputs: number }[] {
  return model.layers
    .flatMap((layer) => walk(layer.module, layer.name, { experts: false }))
    .filter(({ module }) => module.kind.endsWith(MARK))
    .map(({ path, module }) => ({ path, inputs: module.params?.weight?.shape[0] as number }));
}

/**
 * What goes with projected inputs: parameters that are not their weights (biases, gains, other kinds of layers) are trained in the first
 * task only, for nothing says in which directions they may move.
 */
export function frozenRest(name: string): ParamRule {
  return {
    name,
    variant: ({ path }) => (isHeld(path) ? 'held' : ''),
    slots: ({ path }) => (isHeld(path) ? [] : ['frozen']),
    settle: ({ param, updated, slots, info }) =>
      isHeld(info.path) ? param : tf.where(tf.greater(slots.frozen as Tensor, 0.5), param, updated),
  };
}

/** The transition that freezes, and lets the optimizer begin anew: its momentum has directions that are closed from now on. */
export function freezeRest(name: string): Transition {
  return (param, args) => {
    emptyOptimizer(param, name);
    if ((args as readonly string[]).includes(param.info.path)) param.slots[`${name}.frozen`]?.fill(1);
  };
}

/** Paths that `freezeRest` is to freeze. */
export function restOf({ model, scenario }: Pick<TaskEnd, 'model' | 'scenario'>): string[] {
  const weights = new Set(projectedLayers(model).map(({ path }) => `${path}.weight`));
  const { taskKnown, outputs } = scenario.shape;
  const last = model.layers.at(-1)?.name;
  const own = (path: string, width: number | undefined): boolean =>
    taskKnown && width === outputs && path.startsWith(`${last}.`);
  return modelParams(model)
    .filter(({ path, spec }) => !weights.has(path) && !isHeld(path) && !own(path, spec.shape.at(-1)))
    .map(({ path }) => path);
}
