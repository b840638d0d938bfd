import { type Dataset, type PreparedViews, permutations, rotations, type SplitName } from '../../data/index.ts';
import { type ExampleKeys, keyTasks } from './natural-tasks.ts';
import type { ScenarioConfig } from './schema.ts';

/** Which examples of a split a task has: numbers of the dataset's examples. */
export type TaskExamples = Readonly<Record<'train' | 'evaluation', Int32Array>>;

/** A task of a sequence. */
export interface Task {
  /** From 0. */
  readonly index: number;
  readonly examples: TaskExamples;
  /** View through which its inputs are seen; -1 for none. */
  readonly view: number;
  /** Outputs of the model that its classes have, in order. */
  readonly outputs: readonly number[];
  /** Passes over its examples, where they are not the same for all tasks: a federated client takes part more or less often. */
  readonly epochs?: number;
  /** The output that stands for a class of the dataset. */
  outputOf(label: number): number;
}

/** What every rank must know of a scenario: plain data. */
export interface ScenarioShape {
  readonly tasks: number;
  /** Outputs of the model. */
  readonly outputs: number;
  /** Outputs of each task's classes. */
  readonly outputsOf: readonly (readonly number[])[];
  /** Whether the task is known when its examples are classified, so that only its own outputs count. */
  readonly taskKnown: boolean;
  /** Share of each task in which it mixes with its neighbours; above 0 nobody is told when tasks change. */
  readonly gradual: number;
  /** Tokens of an example, where each is predicted from those before (its outputs are the vocabulary); null where an example has a class. */
  readonly tokens: number | null;
  readonly seed: number;
  /** Width of what goes into the model's last layer; null where that is not a single matrix. */
  readonly features: number | null;
}

/** A sequence of tasks over a dataset. */
export interface Scenario {
  readonly shape: ScenarioShape;
  readonly tasks: readonly Task[];
  readonly views: PreparedViews | null;
}

/**
 * Cuts a labelled dataset into a sequence of tasks (van de Ven and Tolias, Three scenarios for continual learning, 2019,
 * tables 1 and 2). Task-incremental: the task is known, each has outputs of its own. Domain-incremental: all tasks share the
 * outputs, and it is not. Class-incremental: each task brings new outputs, and it is not known. Text is domain-incremental, by a key.
 * @param options.keys for stream `natural`: whose each example is
 * @throws RangeError if the dataset has no classes, or not enough for the tasks
 */
export function makeScenario(
  config: ScenarioConfig,
  dataset: Dataset,
  options: { readonly split: SplitName; readonly seed: number; readonly keys?: ExampleKeys | null },
): Scenario {
  const tokens = tokensOf(config, dataset);
  const classes = (tokens === null ? dataset.info.classes : dataset.info.vocabSize) as number;
  if (config.stream.name === 'natural' && !options.keys)
    throw new RangeError('stream natural is not there for federated clients: use split, permuted or rotated');
  if (config.gradual > 0 && config.name === 'task-incremental')
    throw new RangeError(
      'where the task is known its boundaries are: set scenario.gradual to 0, or scenario.name to domain- or class-incremental',
    );
  const keys = options.keys && config.stream.name === 'natural' ? options.keys : null;
  const byKey = keys && config.stream.name === 'natural' ? keyTasks(config.stream, keys) : null;
  const lists = classLists(config, classes, byKey?.tasks);
  const perTask = Math.max(...lists.map((list) => list.length));
  const shared = config.name === 'domain-incremental';
  const views = viewsOf(config, dataset, lists.length);
  // Where the tasks' classes differ, an output belongs to a class; where they are all the same, to a class of a task.
  const split = config.stream.name === 'split';
  const outputs = shared ? perTask : split ? classes : perTask * lists.length;
  const examples = (list: readonly number[], task: number): TaskExamples => {
    const members = new Set(list);
    const of = (part: SplitName, own: readonly string[] | undefined) => {
      const all = dataset.split(part);
      const isOf = own
        ? (i: number) => byKey?.taskOf(own[i] as string) === task
        : (i: number) => members.has((all.labels as ArrayLike<number>)[i] as number);
      return Int32Array.from(Array.from({ length: all.examples }, (_, i) => i).filter(isOf));
    };
    return { train: of('train', keys?.train), evaluation: of(options.split, keys?.evaluation) };
  };
  const whole = split || keys ? null : examples(lists[0] as readonly number[], 0);
  const tasks = lists.map((list, index): Task => {
    const place = new Map(list.map((label, at) => [label, at]));
    const outputOf = (label: number): number => {
      const at = place.get(label) as number;
      return shared ? at : split ? label : index * perTask + at;
    };
    const own = whole ?? examples(list, index);
    for (const [part, found] of Object.entries(own))
      if (found.length === 0)
        throw new RangeError(
          `task ${index + 1} (${keys ? 'its values of the key' : `classes ${list.join(', ')}`}) has no ${part} examples`,
        );
    return { index, examples: own, view: views ? index : -1, outputs: list.map(outputOf), outputOf };
  });
  return {
    shape: {
      tasks: tasks.length,
      outputs,
      outputsOf: tasks.map((task) => task.outputs),
      taskKnown: config.name === 'task-incremental',
      gradual: config.gradual,
      tokens,
      seed: options.seed,
      features: null,
    },
    tasks,
    views,
  };
}

/** @throws RangeError where a strategy needs new classes in each task that are told apart from all others, and has not got them */
export function requireNewClasses(strategy: string, { outputsOf, taskKnown }: ScenarioShape): void {
  const all = outputsOf.flat();
  if (taskKnown || new Set(all).size < all.length)
    throw new RangeError(
      `${strategy} tells the classes of all tasks apart and each task must bring new ones: set scenario.name to class-incremental`,
    );
}

/** Tokens of an example, or null where it has a class. @throws RangeError where it has neither, or text is not cut by a key */
function tokensOf({ name, stream }: ScenarioConfig, dataset: Dataset): number | null {
  const { classes, vocabSize, targets } = dataset.info;
  if (classes !== undefined && dataset.split('train').labels) return null;
  if (vocabSize === undefined)
    throw new RangeError(`dataset ${dataset.name} has no classes to make tasks of; use a labelled one`);
  if (stream.name !== 'natural' || name !== 'domain-incremental')
    throw new RangeError(
      `dataset ${dataset.name} has no classes to make tasks of: for text use scenario {name: domain-incremental, stream: {name: natural, key: ...}}, ` +
        `not ${name} with stream ${stream.name}`,
    );
  return targets[0]?.shape[0] ?? 1;
}

function classLists({ stream }: ScenarioConfig, classes: number, tasks?: number): number[][] {
  const all = Array.from({ length: classes }, (_, i) => i);
  if (stream.name !== 'split') return Array.from({ length: tasks ?? stream.tasks }, () => all);
  if (stream.classes) {
    const seen = new Set<number>();
    for (const label of stream.classes.flat()) {
      if (label >= classes)
        throw new RangeError(`stream.classes names class ${label}; the dataset has 0 to ${classes - 1}`);
      if (seen.has(label))
        throw new RangeError(`stream.classes names class ${label} twice; a class belongs to one task`);
      seen.add(label);
    }
    return stream.classes.map((list) => [...list]);
  }
  if (classes % stream.tasks !== 0)
    throw new RangeError(
      `${classes} classes cannot be shared out over ${stream.tasks} tasks evenly; give stream.classes, a list for each task`,
    );
  const each = classes / stream.tasks;
  return Array.from({ length: stream.tasks }, (_, task) => all.slice(task * each, (task + 1) * each));
}

function viewsOf({ stream }: ScenarioConfig, dataset: Dataset, tasks: number): PreparedViews | null {
  if (stream.name === 'split' || stream.name === 'natural') return null;
  const shape = dataset.info.inputs[0]?.shape ?? [];
  const size = shape.reduce((product, dim) => product * dim, 1);
  if (stream.name === 'permuted') return permutations(size, tasks, stream.seed);
  const [height, width] = shape;
  if (height === undefined || height !== width || size !== height * width)
    throw new RangeError(`rotated needs square grey images, but the inputs of ${dataset.name} are [${shape}]`);
  const step = tasks > 1 ? stream.degrees / (tasks - 1) : 0;
  return rotations(
    height,
    Array.from({ length: tasks }, (_, task) => task * step),
  );
}
