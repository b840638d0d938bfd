import { type Model, modelParams, walk } from '../../modules/index.ts';
import type { TransitionParam } from '../../worker/index.ts';
import type { ScenarioShape } from './scenario.ts';

/**
 * For strategies that show the model as it is for one task.
 * @throws RangeError where examples are classified without saying which task they belong to
 */
export function requireKnownTask(strategy: string, shape: ScenarioShape): void {
  if (shape.taskKnown) return;
  throw new RangeError(
    `strategy ${strategy} has parameters of its own for each task, so it must know the task of an example: ` +
      'set scenario.name to task-incremental, which it is not',
  );
}

/**
 * For strategies that leave the answers to earlier tasks as they are.
 * @throws Error where a module keeps statistics, which go on changing when its weights do not
 */
export function refuseStatistics(strategy: string, model: Model): Model {
  const placed = model.layers.flatMap(({ name, module }) => walk(module, name, { experts: true }));
  const found = placed.find(({ module }) => module.state);
  if (!found) return model;
  throw new Error(
    `strategy ${strategy} keeps the weights of earlier tasks as they are, but ${found.path} (${found.module.kind}) has statistics ` +
      'that every step changes: use a model without, such as mlp, or cnn with norm none',
  );
}

/**
 * Paths of the parameters that have a place for each output along their last axis, in the last layer. Where the task is known each
 * place is trained in its own task only: the outputs of other tasks have gradients of exactly zero.
 */
export function headParams(model: Model, { outputs }: ScenarioShape): string[] {
  const last = model.layers.at(-1)?.name ?? '';
  return modelParams(model)
    .filter(({ path, spec }) => path.startsWith(`${last}.`) && spec.shape.at(-1) === outputs)
    .map(({ path }) => path);
}

/** Empties what the optimizer itself keeps (momentum), so that nothing of what was learnt before goes on moving a parameter. */
export function emptyOptimizer({ slots }: Pick<TransitionParam, 'slots'>, rule: string): void {
  for (const [name, values] of Object.entries(slots)) if (!name.startsWith(`${rule}.`)) values.fill(0);
}
