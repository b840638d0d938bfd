import type { tf } from '../../engine/index.ts';
import { createRng, permutation } from '../../tensor/index.ts';
import type { Entry } from './built-stream.ts';
import type { Task } from './scenario.ts';
import type { ComposeGiven } from './strategy.ts';

/** Mark of an example that is looked at, in an observing step. */
const OBSERVED = 'observed';

/** The targets of strategies that look at single examples. */
export const observedTargets = [{ name: OBSERVED, dtype: 'float32', shape: [] }] as const;

/** Float32 `[micro]`: 1 for examples that are looked at, 0 for those that are trained on. */
export const observedIn = (targets: Readonly<Record<string, tf.Tensor>>): tf.Tensor => targets[OBSERVED] as tf.Tensor;

/** How squared gradients of single examples are found. */
export interface Observation {
  /** Examples of a task. */
  readonly samples: number;
  /** `single`: one a step. `signs`: a batch a step, each example with a random sign. */
  readonly estimate: 'single' | 'signs';
}

/**
 * Adds steps that look at the gradients g_i of examples of a task, in a random order, all before any comes again.
 *
 * `single`: each example fills a whole batch, so that the batch's mean gradient is its own. `signs`: a batch of B different
 * examples has the mean gradient 1/B sum_i s_i g_i with independent signs s_i, whose square has the expectation 1/B^2 sum_i g_i^2, as
 * products of two examples cancel out: B times as many examples in the time, for an error that falls with the steps (Hutchinson's
 * estimator of a diagonal; Bekas, Kokiopoulou and Saad, 2007). Weights are such that squares summed over all steps and divided by
 * `samples` are the mean of g_i^2 either way.
 */
export function observeTask(given: ComposeGiven, task: Task, { samples, estimate }: Observation): void {
  const { builder, global, seed } = given;
  const { train } = task.examples;
  // (A federated client may have none of a task.)
  if (train.length === 0) return;
  const rng = createRng(seed).fork('continual importance', task.index);
  let order = permutation(train.length, rng);
  let at = 0;
  const next = (weight: number): Entry => {
    if (at === order.length) [order, at] = [permutation(train.length, rng), 0];
    const example = train[order[at++] as number] as number;
    return { example, task: task.index, weight, marks: { [OBSERVED]: 1 } };
  };
  if (estimate === 'single') {
    for (let i = 0; i < samples; i++) builder.step(new Array<Entry>(global).fill(next(1)), 'observe');
    return;
  }
  const steps = Math.ceil(samples / global);
  // The squares of all steps have the sum that `samples` single ones would have.
  const size = Math.sqrt((samples * global) / steps);
  for (let i = 0; i < steps; i++)
    builder.step(
      Array.from({ length: global }, () => next(rng.integer(2) === 0 ? -size : size)),
      'observe',
    );
}
