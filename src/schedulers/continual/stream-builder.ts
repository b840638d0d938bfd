import {
  type Dataset,
  type PreparedData,
  type PreparedStream,
  type SplitName,
  type StreamTarget,
  type StreamValues,
  share,
} from '../../data/index.ts';
import type { StepPhase } from '../../optim/index.ts';
import type { BuiltStream, Entry, Pause, Remembered } from './built-stream.ts';
import { Growing } from './growing.ts';
import { OutputMasks } from './output-masks.ts';
import { phaseRuns } from './phase-runs.ts';
import type { Scenario, Task } from './scenario.ts';
import { streamCosts } from './stream-costs.ts';

/** Names of the targets that every stream adds to a dataset's. */
export const WEIGHT = 'weight';
export const MASK = 'mask';

/**
 * Puts together which examples are seen in which step. What comes out is a pure function of the config: nothing depends on
 * what the model learns, so a run can be sharded and resumed like any other.
 */
export class StreamBuilder {
  readonly #scenario: Scenario;
  readonly #global: number;
  readonly #micro: number;
  readonly #rows: number;
  readonly #own: readonly StreamTarget[];
  /** Null where examples have no class. */
  readonly #labels: ArrayLike<number> | null;
  readonly #examples = Growing.int32();
  readonly #classes = Growing.int32();
  readonly #views = Growing.int32();
  readonly #weights = Growing.float32();
  /** Row of `#outputs` of each entry. */
  readonly #masks = Growing.int32();
  readonly #outputs: OutputMasks;
  /** Marks of each entry, for each of the strategy's own targets. */
  readonly #marks: readonly (readonly [target: StreamTarget, values: Growing<Int32Array | Float32Array>])[];
  /** Task of each entry; -1 where it only fills a batch. */
  readonly #tasks = Growing.int32();
  readonly #buffers: { readonly held: readonly unknown[] }[] = [];
  readonly #held: number[] = [];
  readonly #phases: StepPhase[] = [];
  readonly #restarts = new Set<number>();
  readonly #ends: number[] = [];
  readonly #pauses: Pause[] = [];
  readonly #base: number;
  #reserved = 0;

  /**
   * @param targets the strategy's own targets; those of shape [] get their values from `Entry.marks`, the others rows that are filled in later
   * @param computed examples of a microbatch, and how many of them training steps compute. Default: all
   */
  constructor(
    scenario: Scenario,
    dataset: Dataset,
    global: number,
    targets: readonly StreamTarget[] = [],
    computed: { readonly micro: number; readonly rows: number } = { micro: global, rows: global },
  ) {
    this.#scenario = scenario;
    this.#outputs = new OutputMasks(scenario.shape.outputs);
    this.#global = global;
    this.#micro = computed.micro;
    this.#rows = computed.rows;
    this.#own = targets;
    const { labels, examples } = dataset.split('train');
    this.#labels = labels ?? null;
    this.#base = examples;
    this.#marks = targets.map((target) => [target, target.dtype === 'int32' ? Growing.int32() : Growing.float32()]);
  }

  /** Steps so far. */
  get steps(): number {
    return this.#phases.length;
  }

  /**
   * Makes room for examples that are not of the dataset, whose inputs are only known while the run goes on (`TaskEnd.make`; zeros
   * till then): exemplars that the model chooses, samples of a generator. Returns the number of the first one.
   */
  reserve(count: number): number {
    const first = this.#base + this.#reserved;
    this.#reserved += count;
    return first;
  }

  /** Says that what a buffer holds when a task ends is kept. Without: what later steps go back to counts as kept. */
  remember(buffer: Remembered): void {
    this.#buffers.push(buffer);
  }

  /**
   * Adds a step.
   * @throws RangeError if there is not an entry for each example of a batch, or one that counts is not among those that are computed
   */
  step(entries: readonly Entry[], phase: StepPhase = 'train'): void {
    if (entries.length !== this.#global)
      throw new RangeError(
        `a step has ${this.#global} examples (batch.global), but the strategy gave ${entries.length}`,
      );
    for (const entry of phase === 'train' ? this.#packed(entries) : entries) {
      const task = this.#scenario.tasks[entry.task];
      if (!task) throw new RangeError(`there is no task ${entry.task}`);
      this.#examples.push(entry.example);
      if (this.#labels) this.#classes.push(entry.output ?? this.#outputOf(entry.example, task, this.#labels));
      this.#views.push(entry.view ?? task.view);
      this.#weights.push(entry.weight);
      this.#tasks.push(entry.weight === 0 && !marked(entry) ? -1 : entry.task);
      this.#masks.push(this.#outputs.row(entry.outputs ?? (this.#scenario.shape.taskKnown ? task.outputs : null)));
      for (const [{ name, dtype }, values] of this.#marks)
        values.push(entry.marks?.[name] ?? (dtype === 'int32' ? -1 : 0));
    }
    this.#phases.push(phase);
  }

  /** Asks for `ContinualStrategy.atPause` before the next step of the task. */
  pause(name: string): void {
    this.#pauses.push({ step: this.steps, name });
  }

  /** Says that schedules and bias corrections begin anew with the next step. */
  restart(): void {
    this.#restarts.add(this.steps);
  }

  /** Says that the task is over. */
  endTask(): void {
    this.#ends.push(this.steps);
    this.#held.push(this.#buffers.reduce((sum, { held }) => sum + held.length, 0));
  }

  /** @throws RangeError if not every task has ended, or none has a step */
  build(base: PreparedData, dataset: Dataset, split: SplitName): BuiltStream {
    const { tasks, shape, views } = this.#scenario;
    if (this.#ends.length !== tasks.length || this.steps === 0)
      throw new RangeError(`the strategy ended ${this.#ends.length} of ${tasks.length} tasks, in ${this.steps} steps`);
    const { labels } = dataset.split(split);
    const shown = tasks.flatMap((task) => Array.from(task.examples.evaluation, (example) => ({ task, example })));
    const evaluation = tasks.map((_, t) => shown.findIndex(({ task }) => task.index === t));
    const part = {
      from: split,
      examples: share(
        'int32',
        shown.map(({ example }) => example),
      ),
      labels: labels
        ? share(
            'int32',
            shown.map(({ task, example }) => task.outputOf(labels[example] as number)),
          )
        : null,
      views: views
        ? share(
            'int32',
            shown.map(({ task }) => task.view),
          )
        : null,
      targets: {
        [WEIGHT]: {
          values: share('float32', [1]),
          rows: share(
            'int32',
            shown.map(() => 0),
          ),
        },
        [MASK]: this.#outputs.values(shown.map(({ task }) => this.#outputs.row(shape.taskKnown ? task.outputs : null))),
      },
    };
    const targets: StreamTarget[] = [
      { name: WEIGHT, dtype: 'float32', shape: [] },
      { name: MASK, dtype: 'float32', shape: [shape.outputs] },
      ...this.#own,
    ];
    const info = {
      ...dataset.info,
      ...(labels ? { classes: shape.outputs } : {}),
      targets: [...dataset.info.targets, ...targets.map(({ dtype, shape: each }) => ({ dtype, shape: each }))],
    };
    const data: PreparedStream = {
      kind: 'stream',
      base,
      info,
      targets,
      parts: {
        train: {
          from: 'train',
          examples: share('int32', this.#examples.values),
          labels: this.#labels ? share('int32', this.#classes.values) : null,
          views: views ? share('int32', this.#views.values) : null,
          targets: {
            [WEIGHT]: { values: share('float32', this.#weights.values), rows: null },
            [MASK]: this.#outputs.values(this.#masks.values),
            ...Object.fromEntries(this.#marks.map(([target, { values }]) => [target.name, ownValues(target, values)])),
          },
        },
        validation: part,
        test: part,
      },
      views,
      made: this.#reserved > 0 ? share('float32', new Float32Array(this.#reserved * inputSize(dataset))) : null,
    };
    return {
      data,
      steps: this.steps,
      phases: phaseRuns(this.#phases, this.#restarts),
      ends: this.#ends,
      costs: streamCosts(
        {
          global: this.#global,
          ends: this.#ends,
          phases: this.#phases,
          tasks: this.#tasks.values,
          examples: this.#examples.values,
          views: this.#views.values,
        },
        this.#buffers.length > 0 ? this.#held : null,
      ),
      own: this.#own.map(({ name }) => name),
      pauses: this.#pauses,
      evaluation: [...evaluation, shown.length],
    };
  }

  /** The first entries as the rows of microbatches that are computed, with weights for that many; the rest is not looked at. */
  #packed(entries: readonly Entry[]): readonly Entry[] {
    const [micro, rows] = [this.#micro, this.#rows];
    if (rows >= micro) return entries;
    const computed = (this.#global / micro) * rows;
    if (entries.slice(computed).some(({ weight }) => weight !== 0))
      throw new RangeError(
        `a training step has more than the ${computed} examples that it was said to have at most; this is a defect of the strategy`,
      );
    const left = entries[computed] as Entry;
    const scale = computed / this.#global;
    return entries.map((_, at) => {
      const row = at % micro;
      if (row >= rows) return left;
      const entry = entries[Math.floor(at / micro) * rows + row] as Entry;
      return { ...entry, weight: entry.weight * scale };
    });
  }

  #outputOf(example: number, task: Task, labels: ArrayLike<number>): number {
    const label = labels[example];
    if (label === undefined)
      throw new RangeError(`example ${example} is not of the dataset: its entry must say which output is right`);
    return task.outputOf(label);
  }
}

/** Whether an entry has values for the strategy's own targets. */
function marked({ marks }: Entry): boolean {
  for (const _ in marks) return true;
  return false;
}

/** What a strategy's own target is in each example, from its marks. */
function ownValues({ dtype, shape }: StreamTarget, marks: Int32Array | Float32Array): StreamValues {
  if (shape.length === 0) return { values: share(dtype, marks), rows: null };
  // Rows that are filled in while the run goes on, wherever a mark says which.
  const size = shape.reduce((product, dim) => product * dim, 1);
  const rows = Int32Array.from(marks, (mark) => Math.max(0, mark));
  const count = rows.reduce((most, row) => Math.max(most, row), 0) + 1;
  return { values: share('float32', new Float32Array(count * size)), rows: share('int32', rows) };
}

/** Numbers of an example's input. @throws RangeError where there are several inputs, or it is not of numbers */
export function inputSize({ name, info }: Dataset): number {
  const [input, ...others] = info.inputs;
  if (!input || others.length > 0 || input.dtype !== 'float32')
    throw new RangeError(`examples can only be made where there is one input of float32, not for dataset ${name}`);
  return input.shape.reduce((product, dim) => product * dim, 1);
}
