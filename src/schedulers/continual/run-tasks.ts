import type { RunEvent, Session } from '../../coordinator/index.ts';
import { type StreamValues, view } from '../../data/index.ts';
import { float32, type HostTensor } from '../../tensor/index.ts';
import { accuracyOn } from './accuracy.ts';
import { OUTPUTS } from './loss.ts';
import { continualMetrics } from './metrics.ts';
import { READ, WRITE } from './near-data.ts';
import { saveMatrix } from './save-matrix.ts';
import type { ContinualPlan } from './scheduler.ts';
import type { TaskEnd } from './strategy.ts';
import { inputSize } from './stream-builder.ts';

/** Names of what the scheduler keeps in checkpoints. */
const MATRIX = 'accuracy';
const FILLED = 'filled/';
const KEPT = 'kept/';
const MADE = 'made';

/**
 * Runs all tasks: trains, lets the strategy do what it does at the end of each, evaluates all tasks, keeps a checkpoint. An
 * interrupted run goes on where its checkpoint is, in the middle of a task too.
 */
export async function* runTasks(session: Session, plan: ContinualPlan): AsyncGenerator<RunEvent> {
  const { scenario, stream, strategy, strategyConfig } = plan;
  const tasks = scenario.tasks.length;
  const { checkpoint_every } = session.config.train;
  const state = await TaskState.restore(session, plan);
  const checkpoint = () => session.checkpoint(state.tensors());
  const show =
    strategy.showTask && scenario.shape.taskKnown
      ? async (task: number | null) =>
          strategy.showTask?.(taskEnd(session, plan, task ?? 0, state), task, strategyConfig)
      : undefined;
  const evaluate = (learnt: number): Promise<readonly number[]> =>
    accuracyOn(session, plan, { learnt, kept: state.find, show });
  if (state.rows.length === 0 && !session.signal.aborted) state.rows.push(await evaluate(0));
  for (let task = state.rows.length - 1; task < tasks; task++) {
    const end = stream.ends[task] as number;
    const begins = session.position === (stream.ends[task - 1] ?? 0) && !session.signal.aborted;
    if (begins) await strategy.beforeTask?.(taskEnd(session, plan, task, state), strategyConfig);
    while (session.position < end && !session.signal.aborted) {
      const due = checkpoint_every > 0 ? (Math.floor(session.position / checkpoint_every) + 1) * checkpoint_every : end;
      yield* session.steps(Math.min(end, due));
      if (session.position === due && due < end) await checkpoint();
    }
    if (session.signal.aborted) break;
    const before = performance.now();
    await strategy.afterTask?.(taskEnd(session, plan, task, state), strategyConfig);
    // Where tasks are learnt together they are known together.
    const row = await evaluate(stream.ends.filter((done) => done <= session.position).length);
    state.rows.push(row);
    const [untrained, ...matrix] = state.rows;
    const metrics = continualMetrics(matrix, untrained as readonly number[]);
    session.report({ ...metrics, accuracy: metrics.average_accuracy, accuracy_matrix: matrix });
    await saveMatrix(session.folder, matrix, { untrained: untrained as readonly number[], ...metrics });
    yield {
      type: 'task',
      step: session.position,
      task: task + 1,
      tasks,
      accuracies: row,
      average: metrics.average_accuracy,
      ms: performance.now() - before,
    };
    await checkpoint();
  }
  if (session.saved !== session.position) await checkpoint();
}

function taskEnd(session: Session, plan: ContinualPlan, task: number, state: TaskState): TaskEnd {
  const { scenario, stream } = plan;
  const { global } = session.config.batch;
  return {
    task,
    scenario,
    dataset: state.dataset,
    transition: (name, args) => session.transition(name, args),
    parameters: async () => (await session.transition(READ, null)) as Readonly<Record<string, Float32Array>>,
    setParameters: async (values) => {
      await session.transition(WRITE, values);
    },
    predict: (positions, metrics = [OUTPUTS]) => session.predict({ split: 'train', examples: positions, metrics }),
    positions: (index) => ({
      from: (index === 0 ? 0 : (stream.ends[index - 1] as number)) * global,
      to: (stream.ends[index] as number) * global,
    }),
    fill: (target, firstRow, values) => {
      const given = stream.data.parts.train.targets[target] as StreamValues;
      const all = view(given.values, 'float32');
      const size = stream.data.targets.find(({ name }) => name === target)?.shape.reduce((a, b) => a * b, 1) ?? 1;
      all.set(values, firstRow * size);
      state.filled.add(target);
    },
    make: (firstExample, inputs) => {
      const { made } = stream.data;
      if (!made) throw new Error('the strategy has not reserved any examples');
      const first = firstExample - state.dataset.split('train').examples;
      view(made, 'float32').set(inputs, first * inputSize(state.dataset));
      state.made = true;
    },
    keep: (name, tensor) => state.kept.set(name, tensor),
    kept: state.find,
  };
}

/** What a sequence of tasks has come to so far, besides what the workers hold. */
class TaskState {
  /** Accuracy on each task: of the untrained model, then after each task. */
  readonly rows: (readonly number[])[] = [];
  readonly kept = new Map<string, HostTensor>();
  /** Targets whose rows have been filled in. */
  readonly filled = new Set<string>();
  /** Whether examples have been made. */
  made = false;
  readonly #plan: ContinualPlan;
  readonly dataset: TaskEnd['dataset'];

  private constructor(plan: ContinualPlan) {
    this.#plan = plan;
    this.dataset = plan.dataset;
  }

  static async restore(session: Session, plan: ContinualPlan): Promise<TaskState> {
    const state = new TaskState(plan);
    const matrix = await session.restored(MATRIX);
    if (!matrix) return state;
    const tasks = plan.scenario.tasks.length;
    // Shares of examples were kept as counts, which float32 has exactly.
    const sizes = plan.scenario.tasks.map((task) => task.examples.evaluation.length);
    for (let row = 0; row < (matrix.shape[0] as number); row++)
      state.rows.push(sizes.map((size, task) => Number(matrix.data[row * tasks + task]) / size));
    for (const { name } of plan.stream.data.targets) {
      const values = await session.restored(`${FILLED}${name}`);
      if (!values) continue;
      state.filled.add(name);
      view((plan.stream.data.parts.train.targets[name] as StreamValues).values, 'float32').set(
        values.data as Float32Array,
      );
    }
    const made = await session.restored(MADE);
    if (made && plan.stream.data.made) {
      state.made = true;
      view(plan.stream.data.made, 'float32').set(made.data as Float32Array);
    }
    const names = await session.restored(`${KEPT}names`);
    for (const name of names ? namesOf(names) : []) {
      const tensor = await session.restored(`${KEPT}${name}`);
      if (tensor) state.kept.set(name, tensor);
    }
    return state;
  }

  readonly find = (name: string): HostTensor | null => this.kept.get(name) ?? null;

  /** All of it, for a checkpoint. */
  tensors(): Record<string, HostTensor> {
    const { scenario, stream } = this.#plan;
    const sizes = scenario.tasks.map((task) => task.examples.evaluation.length);
    const counts = this.rows.flatMap((row) => row.map((share, task) => Math.round(share * (sizes[task] as number))));
    const tensors: Record<string, HostTensor> = {};
    if (this.rows.length > 0)
      tensors[MATRIX] = float32(Float32Array.from(counts), [this.rows.length, scenario.tasks.length]);
    for (const name of this.filled) {
      const values = view((stream.data.parts.train.targets[name] as StreamValues).values, 'float32');
      tensors[`${FILLED}${name}`] = float32(values.slice(), [values.length]);
    }
    if (this.made && stream.data.made) {
      const inputs = view(stream.data.made, 'float32');
      tensors[MADE] = float32(inputs.slice(), [inputs.length]);
    }
    if (this.kept.size === 0) return tensors;
    const names = new TextEncoder().encode(JSON.stringify([...this.kept.keys()]));
    tensors[`${KEPT}names`] = { dtype: 'uint8', shape: [names.length], data: names };
    for (const [name, tensor] of this.kept) tensors[`${KEPT}${name}`] = tensor;
    return tensors;
  }
}

function namesOf(tensor: HostTensor): string[] {
  return JSON.parse(new TextDecoder().decode(tensor.data as Uint8Array)) as string[];
}
