import { createRng, permutation, type Rng } from '../../tensor/index.ts';
import type { Entry } from './built-stream.ts';
import { mixNeighbours } from './gradual.ts';
import type { Task } from './scenario.ts';
import type { ComposeGiven } from './strategy.ts';

/** An example of a task, as a buffer remembers it. */
export interface Seen {
  readonly example: number;
  readonly task: number;
}

/** How steps are made of new examples and of others. */
export interface TaskSteps {
  /** New examples of a step; the rest of the batch is for `others`. */
  readonly fresh: number;
  /**
   * The entries of a step that has these new examples; `fill` makes examples that do not count of what is missing. Default: the new
   * ones, each of weight 1.
   */
  step?(fresh: readonly Seen[], at: { readonly rng: Rng; readonly task: number }): readonly Entry[];
  /** Called when all steps of a task have been added, before it is ended. */
  ended?(task: Task): void;
}

/**
 * Adds all steps of a task sequence: each task's examples in a new order every epoch, the last batch filled up from the next. Where
 * tasks change gradually, neighbours mix.
 */
export function composeTasks(given: ComposeGiven, steps: TaskSteps): void {
  const { scenario, builder } = given;
  const sharp = scenario.tasks.map((task) => sequenceOf(given, task, task.examples.train, steps.fresh));
  const { gradual } = scenario.shape;
  const sequences = gradual > 0 ? mixNeighbours(sharp, gradual) : sharp;
  for (const [index, task] of scenario.tasks.entries()) {
    addSteps(given, task, sequences[index] as readonly Seen[], steps);
    steps.ended?.(task);
    builder.endTask();
  }
}

/** Adds the steps of one task, or of several mixed, over some examples. */
export function composeTask(given: ComposeGiven, task: Task, examples: Int32Array, steps: TaskSteps): void {
  addSteps(given, task, sequenceOf(given, task, examples, steps.fresh), steps);
}

/** New examples of a task's steps in order: whole batches. */
function sequenceOf({ epochs, seed }: ComposeGiven, task: Task, examples: Int32Array, fresh: number): Seen[] {
  const total = Math.ceil((examples.length * (task.epochs ?? epochs)) / fresh);
  const orderOf = (epoch: number) =>
    permutation(examples.length, createRng(seed).fork('continual order', task.index, epoch));
  let epoch = 0;
  let order = orderOf(0);
  let at = 0;
  return Array.from({ length: total * fresh }, () => {
    if (at === order.length) {
      epoch += 1;
      order = orderOf(epoch);
      at = 0;
    }
    return { example: examples[order[at++] as number] as number, task: task.index };
  });
}

function addSteps(
  { builder, global, seed }: ComposeGiven,
  task: Task,
  sequence: readonly Seen[],
  { fresh, step }: TaskSteps,
): void {
  const rng = createRng(seed).fork('continual steps', task.index);
  for (let from = 0; from < sequence.length; from += fresh) {
    const seen = sequence.slice(from, from + fresh);
    const entries = step?.(seen, { rng, task: task.index }) ?? seen.map((each) => ({ ...each, weight: 1 }));
    builder.step(filled(entries, global));
  }
}

/**
 * Entries filled up to a whole batch with examples of no weight, and weights scaled so that the step's loss is their weighted
 * sum divided by the number of entries that count: what a batch of just those would have.
 */
export function filled(entries: readonly Entry[], global: number): Entry[] {
  const [first] = entries;
  if (!first) throw new RangeError('a step needs at least one example');
  const counting = entries.length;
  const filler = { ...first, weight: 0, marks: {} };
  return Array.from({ length: global }, (_, i) => {
    const entry = entries[i];
    return entry ? { ...entry, weight: (entry.weight * global) / counting } : filler;
  });
}
