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
  const { gradual } = scenario.shape;
  const sharp = (task: Task) => sequenceOf(given, task, task.examples.train, steps.fresh);
  const mixed =
    gradual > 0
      ? mixNeighbours(
          scenario.tasks.map((task) => sharp(task)(0)),
          gradual,
        )
      : null;
  for (const [index, task] of scenario.tasks.entries()) {
    addSteps(given, task, mixed ? slices(mixed[index] as readonly Seen[]) : sharp(task), steps);
    steps.ended?.(task);
    builder.endTask();
  }
}

/** Adds the steps of one task, or of several mixed, over some examples. */
export function composeTask(given: ComposeGiven, task: Task, examples: Int32Array, steps: TaskSteps): void {
  addSteps(given, task, sequenceOf(given, task, examples, steps.fresh), steps);
}

/** Examples of a sequence from a place on: so many (fewer at its end), or all. */
type Sequence = (from: number, count?: number) => readonly Seen[];

const slices =
  (seen: readonly Seen[]): Sequence =>
  (from, count = seen.length) =>
    seen.slice(from, from + count);

/** New examples of a task's steps in order: whole batches. */
function sequenceOf({ epochs, seed }: ComposeGiven, task: Task, examples: Int32Array, fresh: number): Sequence {
  const total = Math.ceil((examples.length * (task.epochs ?? epochs)) / fresh);
  const order = new Int32Array(total * fresh);
  for (let from = 0, epoch = 0; from < order.length; from += examples.length, epoch++) {
    const once = permutation(examples.length, createRng(seed).fork('continual order', task.index, epoch));
    order.set(once.subarray(0, order.length - from), from);
  }
  return (from, count = order.length) =>
    Array.from(order.subarray(from, from + count), (at) => ({ example: examples[at] as number, task: task.index }));
}

function addSteps(
  { builder, global, seed }: ComposeGiven,
  task: Task,
  sequence: Sequence,
  { fresh, step }: TaskSteps,
): void {
  const rng = createRng(seed).fork('continual steps', task.index);
  for (let from = 0; ; from += fresh) {
    const seen = sequence(from, fresh);
    if (seen.length === 0) return;
    const entries =
      step?.(seen, { rng, task: task.index }) ?? seen.map(({ example, task }) => ({ example, task, weight: 1 }));
    builder.step(filled(entries, global));
  }
}

/**
 * Entries filled up to a whole batch with examples of no weight, and weights scaled so that the step's loss is their weighted
 * sum divided by the number of entries that count: what a batch of just those would have.
 */
export function filled(entries: readonly Entry[], global: number): readonly Entry[] {
  const [first] = entries;
  if (!first) throw new RangeError('a step needs at least one example');
  const counting = entries.length;
  if (counting === global) return entries;
  const filler = { ...first, weight: 0, marks: {} };
  return Array.from({ length: global }, (_, i) => {
    const entry = entries[i];
    if (!entry) return filler;
    const weight = (entry.weight * global) / counting;
    return weight === entry.weight ? entry : { ...entry, weight };
  });
}
