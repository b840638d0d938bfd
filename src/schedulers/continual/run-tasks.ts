import type { RunEvent, Session, TaskCost } from '../../coordinator/index.ts';
import { type StreamValues, view } from '../../data/index.ts';
import { float32, type HostTensor } from '../../tensor/index.ts';
import { accuracyOn, type TaskScores, tokenScores } from './accuracy.ts';
import { jsonOf, jsonTensor } from './arrays.ts';
import { type Spent, taskCost } from './costs.ts';
import { DriftLog, type DriftPart } from './drift.ts';
import { OUTPUTS } from './loss.ts';
import { continualMetrics } from './metrics.ts';
import { READ, WRITE } from './near-data.ts';
import { saveDrift, saveMatrix } from './save-matrix.ts';
import type { ContinualPlan } from './scheduler.ts';
import type { TaskEnd } from './strategy.ts';
import { inputSize, type Pause } from './stream-builder.ts';

/** Names of what the scheduler keeps in checkpoints. */
const MATRIX = 'accuracy';
const LOSSES = 'losses';
const FILLED = 'filled/';
const KEPT = 'kept/';
const MADE = 'made';
const DRIFT = 'drift/';
const PAUSED = 'paused';
const SPENT = 'spent';

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
  const drift = async (span: { task: number; part: DriftPart } | null): Promise<void> => {
    if (!plan.drift || !session.transitions) return;
    const values = (await session.transition(READ, null)) as Readonly<Record<string, Float32Array>>;
    if (span) state.drift.end(span.task, span.part, values);
    else state.drift.begin(values);
  };
  const show =
    strategy.showTask && scenario.shape.taskKnown
      ? async (task: number | null) =>
          strategy.showTask?.(taskEnd(session, plan, task ?? 0, state), task, strategyConfig)
      : undefined;
  const evaluate = async (learnt: number): Promise<TaskScores> =>
    scenario.shape.tokens === null
      ? { accuracies: await accuracyOn(session, plan, { learnt, kept: state.find, show }), losses: null }
      : await tokenScores(session, plan);
  if (state.rows.length === 0 && !session.signal.aborted) state.add(await evaluate(0));
  let since = performance.now();
  const lap = (task: number): void => {
    const now = performance.now();
    state.spent.seconds[task] = (state.spent.seconds[task] ?? 0) + (now - since) / 1000;
    since = now;
  };
  for (let task = state.rows.length - 1; task < tasks; task++) {
    since = performance.now();
    const end = stream.ends[task] as number;
    const begins = session.position === (stream.ends[task - 1] ?? 0) && !session.signal.aborted;
    if (begins) {
      await strategy.beforeTask?.(taskEnd(session, plan, task, state), strategyConfig);
      await drift(null);
    }
    const { pauses, half } = stopsOf(plan, task);
    const stops = [half, ...pauses.map(({ step }) => step)];
    const pause = async () => {
      const { position } = session;
      // Where the strategy takes steps of another kind, what the task changes has been seen.
      if (position === half || position === pauses[0]?.step)
        await drift({ task, part: position > half ? 'within' : 'between' });
      for (const { step, name } of pauses)
        if (step === position) await strategy.atPause?.(taskEnd(session, plan, task, state), name, strategyConfig);
      state.paused = position;
    };
    while (session.position < end && !session.signal.aborted) {
      if (stops.includes(session.position) && state.paused !== session.position) await pause();
      const due = checkpoint_every > 0 ? (Math.floor(session.position / checkpoint_every) + 1) * checkpoint_every : end;
      yield* session.steps(Math.min(end, due, ...stops.filter((stop) => stop > session.position)));
      lap(task);
      if (session.position === due && due < end) await checkpoint();
    }
    if (session.signal.aborted) break;
    if (pauses.length === 0) await drift({ task, part: 'within' });
    const before = performance.now();
    await strategy.afterTask?.(taskEnd(session, plan, task, state), strategyConfig);
    lap(task);
    state.costs.push(taskCost(session, plan, { task, spent: state.spent, kept: state.kept }));
    // Where tasks are learnt together they are known together.
    const row = await evaluate(stream.ends.filter((done) => done <= session.position).length);
    state.add(row);
    const losses = row.losses ? { loss_matrix: state.losses.slice(1) } : {};
    const [untrained, ...matrix] = state.rows;
    const metrics = continualMetrics(matrix, untrained as readonly number[], plan.reference);
    session.report({
      ...metrics,
      ...losses,
      ...(row.losses ? { val_loss: weightedMean(row.losses, plan) } : {}),
      accuracy: metrics.average_accuracy,
      accuracy_matrix: matrix,
      tasks: state.costs,
    });
    await saveMatrix(session.folder, matrix, {
      untrained: untrained as readonly number[],
      ...(plan.reference ? { reference: plan.reference } : {}),
      ...(row.losses ? { untrained_losses: state.losses[0] } : {}),
      ...metrics,
      ...losses,
      tasks: state.costs,
    });
    if (plan.drift) await saveDrift(session.folder, { tasks: task + 1, modules: state.drift.modules() });
    yield {
      type: 'task',
      step: session.position,
      task: task + 1,
      tasks,
      accuracies: row.accuracies,
      ...(row.losses ? { losses: row.losses } : {}),
      average: metrics.average_accuracy,
      cost: state.costs[task] as TaskCost,
      ms: performance.now() - before,
    };
    await checkpoint();
  }
  if (session.saved !== session.position) await checkpoint();
}

/** Mean loss over the evaluation examples of all tasks. */
function weightedMean(losses: readonly number[], { stream: { evaluation } }: ContinualPlan): number {
  const sizes = losses.map((_, task) => (evaluation[task + 1] as number) - (evaluation[task] as number));
  const sum = losses.reduce((total, loss, task) => total + loss * (sizes[task] as number), 0);
  return sum / sizes.reduce((total, size) => total + size, 0);
}

/** Steps in a task before which something happens: those that the strategy asked for, and the middle of it. */
function stopsOf(
  { stream }: ContinualPlan,
  task: number,
): { readonly pauses: readonly Pause[]; readonly half: number } {
  const [from, to] = [stream.ends[task - 1] ?? 0, stream.ends[task] as number];
  const pauses = stream.pauses.filter(({ step }) => step >= from && step < to);
  return { pauses, half: Math.ceil((from + Math.min(to, ...pauses.map(({ step }) => step))) / 2) };
}

function taskEnd(session: Session, plan: ContinualPlan, task: number, state: TaskState): TaskEnd {
  const { scenario, stream, strategy } = plan;
  const { global } = session.config.batch;
  return {
    task,
    scenario,
    dataset: state.dataset,
    model: session.model,
    examples: view(stream.data.parts.train.examples, 'int32'),
    rows: (target) => {
      const { rows } = stream.data.parts.train.targets[target] as StreamValues;
      if (!rows) throw new Error(`target ${target} has a value for each position, not rows that are filled in`);
      return view(rows, 'int32');
    },
    transition: (name, args) => session.transition(name, args),
    parameters: async () => (await session.transition(READ, null)) as Readonly<Record<string, Float32Array>>,
    setParameters: async (values) => {
      await session.transition(WRITE, values);
    },
    predict: (positions, metrics = [OUTPUTS]) => {
      state.spent.predicted[task] = (state.spent.predicted[task] ?? 0) + positions.length;
      return session.predict({ split: 'train', examples: positions, metrics });
    },
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
    drift: () => {
      if (!plan.drift)
        throw new Error(`strategy ${strategy.name} goes by how modules drift: set scheduler.drift to true`);
      return state.drift.modules();
    },
  };
}

/** What a sequence of tasks has come to so far, besides what the workers hold. */
class TaskState {
  /** Accuracy on each task: of the untrained model, then after each task. */
  readonly rows: (readonly number[])[] = [];
  /** Losses likewise, where the data is text. */
  readonly losses: (readonly number[])[] = [];
  readonly kept = new Map<string, HostTensor>();
  /** Targets whose rows have been filled in. */
  readonly filled = new Set<string>();
  /** Whether examples have been made. */
  made = false;
  /** The newest step before which the strategy did what it does there. */
  paused = -1;
  drift = new DriftLog();
  /** What tasks have cost so far. */
  spent: Spent = { seconds: [], predicted: [] };
  readonly costs: TaskCost[] = [];
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
    const sizes = answers(plan);
    const losses = await session.restored(LOSSES);
    if (losses)
      for (let row = 0; row < losses.data.length; row += tasks)
        state.losses.push(Array.from((losses.data as Float32Array).subarray(row, row + tasks)));
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
    state.drift = await DriftLog.restore((name) => session.restored(`${DRIFT}${name}`));
    const spent = await session.restored(SPENT);
    if (spent) {
      const { costs, ...others } = jsonOf(spent) as Spent & { readonly costs: readonly TaskCost[] };
      state.spent = others;
      state.costs.push(...costs);
    }
    const paused = await session.restored(PAUSED);
    if (paused) state.paused = jsonOf(paused) as number;
    const names = await session.restored(`${KEPT}names`);
    for (const name of names ? (jsonOf(names) as string[]) : []) {
      const tensor = await session.restored(`${KEPT}${name}`);
      if (tensor) state.kept.set(name, tensor);
    }
    return state;
  }

  add({ accuracies, losses }: TaskScores): void {
    this.rows.push(accuracies);
    if (losses) this.losses.push(losses);
  }

  readonly find = (name: string): HostTensor | null => this.kept.get(name) ?? null;

  /** All of it, for a checkpoint. */
  tensors(): Record<string, HostTensor> {
    const { scenario, stream } = this.#plan;
    const sizes = answers(this.#plan);
    const counts = this.rows.flatMap((row) => row.map((share, task) => Math.round(share * (sizes[task] as number))));
    const tensors: Record<string, HostTensor> = {};
    if (this.rows.length > 0)
      tensors[MATRIX] = float32(Float32Array.from(counts), [this.rows.length, scenario.tasks.length]);
    if (this.losses.length > 0)
      tensors[LOSSES] = float32(Float32Array.from(this.losses.flat()), [this.losses.length, scenario.tasks.length]);
    for (const name of this.filled) {
      const values = view((stream.data.parts.train.targets[name] as StreamValues).values, 'float32');
      tensors[`${FILLED}${name}`] = float32(values.slice(), [values.length]);
    }
    if (this.made && stream.data.made) {
      const inputs = view(stream.data.made, 'float32');
      tensors[MADE] = float32(inputs.slice(), [inputs.length]);
    }
    tensors[SPENT] = jsonTensor({ ...this.spent, costs: this.costs });
    if (this.paused >= 0) tensors[PAUSED] = jsonTensor(this.paused);
    for (const [name, tensor] of Object.entries(this.drift.tensors())) tensors[`${DRIFT}${name}`] = tensor;
    if (this.kept.size === 0) return tensors;
    tensors[`${KEPT}names`] = jsonTensor([...this.kept.keys()]);
    for (const [name, tensor] of this.kept) tensors[`${KEPT}${name}`] = tensor;
    return tensors;
  }
}

/** Answers that each task's evaluation asks for. */
function answers({ scenario: { tasks, shape } }: ContinualPlan): number[] {
  return tasks.map((task) => task.examples.evaluation.length * (shape.tokens ?? 1));
}
