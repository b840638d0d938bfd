import { type Dataset, openDataset, openStream, type PreparedStream, type Split } from '../../../data/index.ts';
import type { DeviceTensor, Engine } from '../../../engine/index.ts';
import { layerKey, type Model } from '../../../modules/index.ts';
import type { OptimizerPlan } from '../../../optim/index.ts';
import { makeScenario, type Scenario } from '../../continual/scenario.ts';
import { type ContinualStrategy, continualStrategy } from '../../continual/strategy.ts';
import { type LocalObjective, type LocalState, LocalTrainer, plainObjective } from '../../local/index.ts';
import type { KeptVectors } from '../client-store.ts';
import type { ClientView } from '../client-view.ts';
import type { Evaluator } from '../evaluator.ts';
import type { ClientFit } from '../fit-task.ts';
import { ClientSlots } from './client-slots.ts';
import { type ClientStream, clientStream, withoutCopies } from './client-stream.ts';
import { type ClientTasks, type ContinualJob, NO_COURSE } from './job.ts';
import { clientObjective } from './objective.ts';
import { filledIn, type KeptWriter, taskEndOf } from './task-end.ts';

/** Names of what clients keep: how often they have trained in each task, and the task that the strategy was last told of. */
export const FITS = 'tasks/fits';
const BEGUN = 'tasks/begun';

/** What training clients on tasks takes. */
export interface TaskClientsOptions {
  readonly job: ContinualJob;
  readonly data: PreparedStream;
  readonly engine: Engine;
  readonly model: Model;
  readonly optimizer: OptimizerPlan;
  /** What the federated strategy does near the data. */
  readonly federated: LocalObjective;
  readonly seed: number;
  readonly batch: number;
  readonly view: ClientView;
}

/** A client's fit in a task. */
export interface TaskFit {
  readonly split: Split;
  /** Positions in it, step by step. */
  readonly batches: readonly Int32Array[];
  /** What the client keeps, as the fit begins. */
  readonly kept: KeptVectors;
}

/** Parameters as a fit begins with them, on the host and where the engine computes. */
export interface TaskStart {
  readonly state: LocalState;
  readonly params: Float32Array;
}

/**
 * A continual strategy near the data of federated clients: each client learns its own examples of the tasks as if it were alone, from
 * the common model. What the strategy does between tasks happens on the client, with the common model of that moment.
 */
export class TaskClients {
  readonly objective: LocalObjective;
  readonly slots: ClientSlots;
  readonly #options: TaskClientsOptions;
  readonly #strategy: ContinualStrategy;
  readonly #base: Dataset;
  readonly #scenario: Scenario;
  readonly #looking: LocalTrainer;

  constructor(options: TaskClientsOptions) {
    const { job, data, engine, model, optimizer, federated, seed } = options;
    this.#options = options;
    this.#strategy = continualStrategy(job.strategy);
    this.#base = openDataset(data.base);
    const made = makeScenario(job.scenario, this.#base, { split: job.split, seed });
    this.#scenario = { ...made, shape: job.shape };
    const dataset = openDataset(data);
    this.objective = clientObjective(federated, dataset, job);
    this.slots = new ClientSlots(
      engine,
      model,
      optimizer,
      this.#strategy.rule?.(job.config, job.shape, NO_COURSE) ?? null,
    );
    // What federated strategies do to gradients is none of the importance of a weight.
    this.#looking = new LocalTrainer({
      ...{ engine, model, info: data.info, optimizer: this.slots.looking },
      objective: clientObjective(plainObjective, dataset, job),
    });
  }

  /** What a client trains on in a round, and what it keeps once the strategy was told of a new task. */
  async begin(client: ClientFit, start: TaskStart, evaluator: Evaluator): Promise<TaskFit> {
    const tasks = tasksOf(client);
    const done = fitsOf(client.kept, this.#scenario);
    const fits = plusOne(done, tasks.task);
    const kept = await this.#told(client, tasks.task, start, evaluator, copied(client.kept));
    const stream = this.#stream(client, tasks.task, fits);
    const first = done[tasks.task] === 0 ? stream.first : this.#stream(client, tasks.task, done).trained;
    return {
      split: this.#open(stream, client, kept),
      batches: batchesOf(first, stream.trained, this.#options.batch),
      kept: { ...kept, [FITS]: fits },
    };
  }

  /** What the client keeps when the task is over: the strategy looks at it with the common model. */
  async end(client: ClientFit, start: TaskStart, evaluator: Evaluator): Promise<KeptVectors> {
    const { task, examples } = tasksOf(client);
    const fits = fitsOf(client.kept, this.#scenario);
    let kept = copied(client.kept);
    if ((fits[task] as number) > 0) {
      const stream = this.#stream(client, task, fits);
      kept = { ...kept, ...(await this.#look(client, stream, start.state, kept)) };
      await this.#strategy.afterTask?.(this.#taskEnd(client, stream, start, evaluator, kept), this.#options.job.config);
    }
    const next = task + 1;
    const goesOn = next < this.#scenario.tasks.length && (examples[next] as Int32Array).length > 0;
    return goesOn ? this.#told(client, next, start, evaluator, kept) : kept;
  }

  /** Lets the strategy look at the gradients that it has asked for at the end of the task. */
  async #look(client: ClientFit, stream: ClientStream, state: LocalState, kept: KeptVectors): Promise<KeptVectors> {
    const { batch, seed } = this.#options;
    if (stream.trained === stream.end) return {};
    const tensors = new Map<string, readonly DeviceTensor[]>();
    for (const tensor of this.#looking.tensorsOf) {
      const values = kept[tensor.name];
      tensors.set(
        tensor.name,
        values ? this.#looking.objectiveTensors(tensor.name, values) : this.#looking.initialTensors(tensor, state),
      );
    }
    const looked = await this.#looking.train(
      this.slots.with(state, kept),
      {
        split: this.#open(stream, client, kept),
        batches: batchesOf(stream.trained, stream.end, batch).map((positions) => withoutCopies(stream, positions)),
        first: 0,
        key: (step) => layerKey(seed, step, client.client, `end of task ${stream.task}`),
      },
      tensors,
    );
    return this.slots.read(looked.state);
  }

  /** Tells the strategy that a task begins, once for each client. */
  async #told(
    client: ClientFit,
    task: number,
    start: TaskStart,
    evaluator: Evaluator,
    kept: Record<string, Float32Array>,
  ): Promise<Record<string, Float32Array>> {
    if ((kept[BEGUN]?.[0] ?? 0) > task) return kept;
    if (this.#strategy.beforeTask) {
      // All that the client may yet train on in it: what is looked up of examples is looked up now.
      const fits = fitsOf(client.kept, this.#scenario);
      fits[task] = this.#options.job.rounds;
      const stream = this.#stream(client, task, fits);
      await this.#strategy.beforeTask(this.#taskEnd(client, stream, start, evaluator, kept), this.#options.job.config);
    }
    kept[BEGUN] = Float32Array.of(task + 1);
    return kept;
  }

  #taskEnd(client: ClientFit, stream: ClientStream, start: TaskStart, evaluator: Evaluator, kept: KeptWriter) {
    const { job, batch, model } = this.#options;
    return taskEndOf({
      ...{ model, strategy: this.#strategy, job, stream, batch, dataset: this.#base, slots: this.slots, kept },
      params: start.params,
      predict: (positions, output) =>
        evaluator.outputs(start.state, this.#open(stream, client, kept), positions, output),
    });
  }

  #stream(client: ClientFit, task: number, fits: ArrayLike<number>): ClientStream {
    const { job, data, batch, seed } = this.#options;
    const { examples } = tasksOf(client);
    return clientStream({
      ...{ job, batch, seed, examples, fits, task, scenario: this.#scenario },
      ...{ dataset: this.#base, data: data.base, client: client.client },
    });
  }

  /** The training part of a client's stream, as the client sees it; what the strategy has filled in is in its place. */
  #open({ built }: ClientStream, { client }: ClientFit, kept: KeptVectors): Split {
    const base = {
      ...this.#base,
      split: (name: Split['name']) => this.#options.view.of(this.#base.split(name), client),
    };
    return openStream(filledIn(built.data, kept), base).split('train');
  }
}

/** What a client keeps, to be changed. */
function copied(kept: KeptVectors): KeptWriter {
  return Object.fromEntries(Object.entries(kept).map(([name, values]) => [name, values.slice()]));
}

/** What a client has been told of tasks. @throws Error where it has not */
function tasksOf({ tasks, client }: ClientFit): ClientTasks {
  if (!tasks) throw new Error(`client ${client} was not told which task it is`);
  return tasks;
}

function fitsOf(kept: KeptVectors, { tasks }: Scenario): Float32Array {
  return kept[FITS]?.slice() ?? new Float32Array(tasks.length);
}

function plusOne(fits: Float32Array, task: number): Float32Array {
  return fits.map((count, i) => (i === task ? count + 1 : count));
}

/** Positions of steps: a stream has those of a step one after another. */
function batchesOf(first: number, end: number, batch: number): Int32Array[] {
  return Array.from({ length: end - first }, (_, step) =>
    Int32Array.from({ length: batch }, (__, i) => (first + step) * batch + i),
  );
}
