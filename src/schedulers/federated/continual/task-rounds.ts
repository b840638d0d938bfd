import type { RunEvent } from '../../../coordinator/index.ts';
import { type Partition, partitionOf } from '../../../data/index.ts';
import { float32, type HostTensor } from '../../../tensor/index.ts';
import { type ContinualMetrics, continualMetrics } from '../../continual/metrics.ts';
import { saveMatrix } from '../../continual/save-matrix.ts';
import type { ClientStore } from '../client-store.ts';
import type { FitPool } from '../fit-pool.ts';
import type { ClientFit, EvaluateReport, SharedStart } from '../fit-task.ts';
import type { SavedTensors } from '../saved-tensors.ts';
import type { ClientTasks } from './job.ts';
import type { TasksPlan } from './plan.ts';
import { FITS } from './task-client.ts';

/** Tensor of a checkpoint that has, for the untrained model and after each task, how many examples of each task were right. */
const RIGHT = 'tasks/right';

/** What tasks over rounds are made of. */
export interface TaskRoundsOptions {
  readonly plan: TasksPlan;
  readonly pool: FitPool;
  readonly store: ClientStore;
  /** Who has which examples, of all tasks. */
  readonly partition: Partition;
  /** Run folder. */
  readonly folder: string;
  /** The common model: its vectors, which rounds change. */
  readonly params: Float32Array;
  readonly state: Float32Array;
}

/** What the end of a task came to. */
export interface TaskOver {
  readonly event: RunEvent;
  /** Clients that were sent the model so that they look back at the task, and bytes of that. */
  readonly asked: number;
  readonly bytesDown: number;
}

/** A sequence of tasks over the rounds of a federated run: whose examples count when, and what is known after each task. */
export class TaskRounds {
  readonly #options: TaskRoundsOptions;
  readonly #own: readonly Partition[];
  /** Right answers on each task: of the untrained model, then after each task. */
  readonly #right: number[][] = [];
  #round: number;

  private constructor(options: TaskRoundsOptions, round: number) {
    this.#options = options;
    this.#round = round;
    const { partition, plan } = options;
    this.#own = plan.scenario.tasks.map(({ examples }) => {
      const members = new Set(examples.train);
      const lists = Array.from({ length: partition.clients }, (_, client) =>
        partition.examples(client).filter((example) => members.has(example)),
      );
      return partitionOf(lists);
    });
  }

  /** @param round completed rounds */
  static async open(options: TaskRoundsOptions, round: number, saved: SavedTensors | null): Promise<TaskRounds> {
    const tasks = new TaskRounds(options, round);
    if (saved) {
      const { data, shape } = await saved.read(RIGHT);
      const [rows = 0, width = 0] = shape;
      for (let row = 0; row < rows; row++)
        tasks.#right.push(Array.from({ length: width }, (_, task) => Number(data[row * width + task])));
    } else tasks.#right.push(await tasks.#measure(0));
    return tasks;
  }

  /** Whose examples count in the round that comes: those of its task. */
  get partition(): Partition {
    const own = () => this.#own[this.#task] as Partition;
    return {
      clients: this.#options.partition.clients,
      size: (client) => own().size(client),
      examples: (client) => own().examples(client),
    };
  }

  /** What a client is told of tasks. */
  readonly tell = (client: number): Pick<ClientFit, 'tasks'> => this.#told(client, this.#task, false);

  /** Counts a round; if it was the last one of a task, lets clients look back at it, and measures all tasks. */
  async ended(): Promise<TaskOver | null> {
    const { plan, folder, pool } = this.#options;
    const task = this.#task;
    this.#round += 1;
    if (this.#round % plan.job.rounds !== 0) return null;
    const before = performance.now();
    const asked = await this.#lookBack(task);
    const learnt = task + 1;
    this.#right.push(await this.#measure(learnt));
    const { matrix, untrained, metrics } = this.#found();
    await saveMatrix(folder, matrix, { untrained, ...metrics });
    const event: RunEvent = {
      type: 'task',
      step: this.#round,
      task: learnt,
      tasks: plan.scenario.tasks.length,
      accuracies: matrix.at(-1) as readonly number[],
      average: metrics.average_accuracy,
      ms: performance.now() - before,
    };
    return { event, asked, bytesDown: 4 * pool.receivedSize * asked };
  }

  /** Measures the common model on the tasks that have begun. */
  async evaluate(start: SharedStart): Promise<EvaluateReport> {
    const begun = Math.floor((this.#round - 1) / this.#options.plan.job.rounds) + 1;
    const reports: EvaluateReport[] = [];
    for (let task = 0; task < begun; task++) reports.push(await this.#on(task, start, begun));
    const sum = (of: (report: EvaluateReport) => number) => reports.reduce((total, report) => total + of(report), 0);
    return {
      examples: sum(({ examples }) => examples),
      loss: sum(({ loss }) => loss),
      correct: sum(({ correct }) => correct ?? 0),
    };
  }

  tensors(): Record<string, HostTensor> {
    const width = this.#own.length;
    return { [RIGHT]: float32(Float32Array.from(this.#right.flat()), [this.#right.length, width]) };
  }

  /** For summary.json, once there is a task that was learnt. */
  summary(): Readonly<Record<string, unknown>> {
    if (this.#right.length < 2) return {};
    const { matrix, metrics } = this.#found();
    return { ...metrics, accuracy: metrics.average_accuracy, accuracy_matrix: matrix };
  }

  get #task(): number {
    return Math.min(Math.floor(this.#round / this.#options.plan.job.rounds), this.#own.length - 1);
  }

  #found(): { matrix: number[][]; untrained: number[]; metrics: ContinualMetrics } {
    const { evaluation } = this.#options.plan;
    const shares = this.#right.map((row) =>
      row.map((right, task) => right / ((evaluation[task + 1] as number) - (evaluation[task] as number))),
    );
    const [untrained, ...matrix] = shares as [number[], ...number[][]];
    return { matrix, untrained, metrics: continualMetrics(matrix, untrained) };
  }

  /** Sends the model to those who have taken part in a task, or in one before, for their strategy to look at it. */
  async #lookBack(task: number): Promise<number> {
    const { pool, store, params, state } = this.#options;
    const clients = store.clients().filter((client) => store.lengths(client).some(([name]) => name === FITS));
    const start = pool.publish(params, state);
    // A few at a time, so that not all that they keep is in memory at once.
    const several = 8 * pool.threads;
    for (let from = 0; from < clients.length; from += several) {
      const fits = clients.slice(from, from + several).map((client): ClientFit => {
        return {
          ...{ client, round: this.#round - 1, epochs: 0, maxSteps: 0, firstStep: 0, weight: 0, clipNorm: null },
          ...{ examples: new Int32Array(0), kept: store.get(client), ...this.#told(client, task, true) },
        };
      });
      const { reports } = await pool.sum(start, fits);
      for (const { client, kept, problem } of reports) {
        if (problem !== null) throw new Error(`client ${client} could not look back at task ${task + 1}: ${problem}`);
        store.set(client, kept);
      }
    }
    return clients.length;
  }

  #told(client: number, task: number, over: boolean): { readonly tasks: ClientTasks } {
    return { tasks: { task, over, examples: this.#own.map((each) => each.examples(client).slice()) } };
  }

  /** How many examples of each task are right once so many have been learnt. */
  async #measure(learnt: number): Promise<number[]> {
    const { pool, params, state } = this.#options;
    const start = pool.publish(params, state);
    const right: number[] = [];
    for (const task of this.#own.keys()) right.push((await this.#on(task, start, learnt)).correct ?? 0);
    return right;
  }

  /** A task's examples; where it is not known which task it is, the outputs of those so far may be the answer. */
  #on(task: number, start: SharedStart, learnt: number): Promise<EvaluateReport> {
    const { pool, plan } = this.#options;
    const { outputsOf, taskKnown } = plan.scenario.shape;
    const [from, to] = [plan.evaluation[task] as number, plan.evaluation[task + 1] as number];
    const seen = task < learnt ? outputsOf.slice(0, learnt) : outputsOf;
    const allowed = taskKnown ? (outputsOf[task] as readonly number[]) : [...new Set(seen.flat())];
    const positions = Int32Array.from({ length: to - from }, (_, i) => from + i);
    return pool.evaluate(start, plan.job.split, positions, undefined, allowed);
  }
}
