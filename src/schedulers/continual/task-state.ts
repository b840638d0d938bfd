import type { MeasureSession, TaskCost } from '../../coordinator/index.ts';
import { type StreamValues, view } from '../../data/index.ts';
import { float32, type HostTensor } from '../../tensor/index.ts';
import type { TaskScores } from './accuracy.ts';
import { jsonOf, jsonTensor } from './arrays.ts';
import type { Spent } from './costs.ts';
import { DriftLog } from './drift.ts';
import type { ContinualPlan } from './scheduler.ts';
import type { TaskEnd } from './strategy.ts';

/** Names of what the scheduler keeps in checkpoints. */
const MATRIX = 'accuracy';
const LOSSES = 'losses';
const FILLED = 'filled/';
const KEPT = 'kept/';
const MADE = 'made';
const DRIFT = 'drift/';
const PAUSED = 'paused';
const SPENT = 'spent';

/** What a sequence of tasks has come to so far, besides what the workers hold. */
export class TaskState {
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

  /** The state that a checkpoint has, or the one that every run begins with. */
  static async restore(session: Pick<MeasureSession, 'restored'>, plan: ContinualPlan): Promise<TaskState> {
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
