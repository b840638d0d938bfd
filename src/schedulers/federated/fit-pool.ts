import type { Piscina } from 'piscina';
import type { SplitName } from '../../data/index.ts';
import { taskSizes } from './fit-blocks.ts';
import type {
  ClientEvaluation,
  ClientFit,
  ClientReport,
  EvaluateReport,
  FitJob,
  FitSizes,
  FitTask,
  SharedStart,
} from './fit-task.ts';
import { startFitThreads, TASKS_AT_A_THREAD } from './fit-threads.ts';
import { CHUNK } from './privacy/keystream.ts';
import type { MaskJob, MaskTask } from './privacy/mask-update.ts';
import type { ClientQuestion } from './tasks/index.ts';
import { RunningTreeSum } from './tree-sum.ts';
import { UpdateArena } from './update-arena.ts';

/** How a pool is made. */
export interface FitPoolOptions {
  readonly job: FitJob;
  readonly threads: number;
  /** Milliseconds that making a thread ready (reading, tracing, compiling) may take. Default five minutes. */
  readonly startDeadlineMs?: number;
}

/** What a cohort's fits gave: the sum of their weighted updates in the canonical tree over the cohort, and every report. */
export interface CohortSum {
  /** Parameters, then module state; null if nobody gave an update. */
  readonly sum: Float32Array | null;
  readonly reports: readonly ClientReport[];
}

/** How single updates are to be had. */
export interface EachOptions {
  readonly signal?: AbortSignal;
  readonly lend?: boolean;
  /** Reports have what a codec wrote of the update, if there is one. */
  readonly encoded?: boolean;
}

/** Clients whose own models one task measures. */
const BLOCK = 8;

/** Sums that are held while a cohort's are added up: enough for thousands of tasks. More would be elsewhere. */
const COHORT_VECTORS = 12;

/** Examples of one evaluation task: a multiple of what the evaluator looks at in one run. */
const EVALUATION = 2500;

/**
 * Threads that train clients, each with its own engine. What comes out does not depend on how many threads there are: tasks
 * are nodes of the canonical tree, and results are taken in order.
 */
export class FitPool {
  readonly threads: number;
  readonly paramsSize: number;
  readonly stateSize: number;
  /** Numbers that a client receives for a fit, and that it sends after it. */
  readonly receivedSize: number;
  readonly sentSize: number;
  readonly #piscina: Piscina;
  readonly #trained: Int32Array;
  readonly #spare: SharedArrayBuffer[] = [];
  /** Parameters that were published, whose memory may be written over. */
  readonly #retired: SharedArrayBuffer[] = [];
  /** Where cohorts' sums are added up. */
  #sums: UpdateArena | null = null;
  #version = 0;

  private constructor(piscina: Piscina, threads: number, sizes: FitSizes, trained: SharedArrayBuffer) {
    this.#piscina = piscina;
    this.#trained = new Int32Array(trained);
    this.threads = threads;
    this.paramsSize = sizes.params;
    this.stateSize = sizes.state;
    this.receivedSize = sizes.received;
    this.sentSize = sizes.sent;
  }

  /** Starts the threads and waits until each is ready. @throws what making the model or the engine throws */
  static async start({ job, threads, startDeadlineMs = 300_000 }: FitPoolOptions): Promise<FitPool> {
    const trained = new SharedArrayBuffer(4);
    const { pool, sizes } = await startFitThreads({ ...job, trained }, threads, startDeadlineMs);
    return new FitPool(pool, threads, sizes, trained);
  }

  /** Puts parameters, module state and the objective's `round` tensors where all threads can read them. */
  publish(params: Float32Array, state: Float32Array, round: Readonly<Record<string, Float32Array>> = {}): SharedStart {
    this.#version += 1;
    return {
      version: this.#version,
      params: shared(params, this.#retired.pop()),
      state: shared(state),
      round: Object.fromEntries(Object.entries(round).map(([name, values]) => [name, shared(values)])),
    };
  }

  /** Takes back a start that nothing is under way from, and will not be: its memory is the next one's. */
  retire({ params }: SharedStart): void {
    this.#retired.push(params);
  }

  /** Clients that have been trained since the pool was started. */
  get trained(): number {
    return Atomics.load(this.#trained, 0);
  }

  /** Trains a cohort; reports are in its order. */
  async sum(
    start: SharedStart,
    cohort: readonly ClientFit[],
    { signal }: { readonly signal?: AbortSignal } = {},
  ): Promise<CohortSum> {
    this.#sums ??= new UpdateArena(this.paramsSize + this.stateSize, COHORT_VECTORS);
    const sums = this.#sums;
    const total = new RunningTreeSum(cohort.length, sums);
    const reports: ClientReport[] = [];
    let at = 0;
    const tasks = taskSizes(cohort.length, this.threads).map((size) => {
      at += size;
      return cohort.slice(at - size, at);
    });
    // A few tasks ahead, so that no thread waits and memory does not grow with the cohort.
    const ahead = this.threads * (TASKS_AT_A_THREAD + 1);
    const running: Promise<{ into: SharedArrayBuffer; reports: ClientReport[] }>[] = [];
    const begin = (clients: readonly ClientFit[]) => {
      const promise = this.#fit({ start, clients, mode: 'sum', into: this.#take() }, signal);
      // Awaited in order below; one that fails before its turn must not count as unhandled.
      promise.catch(() => undefined);
      running.push(promise);
    };
    for (const task of tasks.slice(0, ahead)) begin(task);
    for (let i = 0; i < tasks.length; i++) {
      const next = tasks[i + ahead];
      const { into, reports: made } = await (running[i] as (typeof running)[number]);
      let part: Float32Array | null = null;
      if (made.some(({ problem }) => problem === null)) {
        part = sums.take();
        part.set(new Float32Array(into));
      }
      this.#spare.push(into);
      if (next) begin(next);
      reports.push(...made);
      total.add(reports.length, part);
    }
    const whole = cohort.length === 0 ? null : total.total();
    const sum = whole?.slice() ?? null;
    if (whole) sums.give(whole);
    return { sum, reports };
  }

  /**
   * Trains clients and gives each one's own update, in order. For a few clients: all updates are in memory at once. With `lend`
   * they are in shared memory, which is to be given back by `giveBack`.
   */
  async each(
    start: SharedStart,
    cohort: readonly ClientFit[],
    { signal, lend = false, encoded = false }: EachOptions = {},
  ): Promise<{ readonly update: Float32Array; readonly report: ClientReport }[]> {
    const results = cohort.map(async (client) => {
      const { into, reports } = await this.#fit(
        { start, clients: [client], mode: 'each', encoded, into: this.#take() },
        signal,
      );
      const update = lend ? new Float32Array(into) : new Float32Array(into).slice();
      if (!lend) this.#spare.push(into);
      return { update, report: reports[0] as ClientReport };
    });
    return Promise.all(results);
  }

  /** Takes back the memory of updates that `each` lent; nobody may look at them any more. */
  giveBack(updates: readonly { readonly update: Float32Array }[]): void {
    for (const { update } of updates) this.#spare.push(update.buffer as unknown as SharedArrayBuffer);
  }

  /** The weighted sum of updates that came one by one, with the bits that `sum` gives. Those with a problem are left out. */
  add(updates: readonly { readonly update: Float32Array; readonly report: ClientReport }[]): Float32Array | null {
    if (updates.length === 0) return null;
    const total = new RunningTreeSum(updates.length);
    for (const [i, { update, report }] of updates.entries())
      total.add(i + 1, report.problem === null ? update.map((value) => value * report.weight) : null);
    return total.total();
  }

  /** Masks clients' updates, which `each` has lent, as they do before they send them: each thread a part of all of them. */
  async mask(jobs: readonly MaskJob[]): Promise<void> {
    const length = jobs[0]?.update.length ?? 0;
    const part = CHUNK * Math.ceil(length / CHUNK / this.threads);
    const tasks: Promise<void>[] = [];
    for (let from = 0; from < length; from += part) {
      const task: MaskTask = { jobs, from, to: Math.min(from + part, length) };
      tasks.push(this.#piscina.run(task, { name: 'mask' }) as Promise<void>);
    }
    await Promise.all(tasks);
  }

  /** Asks clients something about their data; answers are in their order. `task` is the name of a client task. */
  async ask(
    start: SharedStart,
    clients: readonly Pick<ClientFit, 'client' | 'round' | 'examples'>[],
    task: string,
    config: unknown,
  ): Promise<unknown[]> {
    return Promise.all(
      clients.map(({ client, round, examples }) => {
        const question: ClientQuestion = { task, config, start, client, round, examples };
        return this.#piscina.run(question, { name: 'answer' }) as Promise<unknown>;
      }),
    );
  }

  /**
   * Measures a start on examples of a split, spread over the threads; sums are taken in order. `client`: whose eyes they are
   * seen with, where clients do not see alike. `outputs`: those of the model that may be the answer; default all.
   */
  async evaluate(
    start: SharedStart,
    split: SplitName,
    examples: Int32Array,
    client?: number,
    outputs?: readonly number[],
  ): Promise<EvaluateReport> {
    const whose = { ...(client === undefined ? {} : { client }), ...(outputs ? { outputs } : {}) };
    const parts: Promise<EvaluateReport>[] = [];
    for (let from = 0; from < examples.length; from += EVALUATION)
      parts.push(
        this.#piscina.run(
          { start, split, examples: examples.slice(from, from + EVALUATION), ...whose },
          { name: 'evaluate' },
        ) as Promise<EvaluateReport>,
      );
    const reports = await Promise.all(parts);
    return reports.reduce(
      (sum, part) => ({
        examples: sum.examples + part.examples,
        loss: sum.loss + part.loss,
        correct: sum.correct === null || part.correct === null ? null : sum.correct + part.correct,
      }),
      { examples: 0, loss: 0, correct: 0 },
    );
  }

  /**
   * Measures each client's own model on its own examples: what it keeps (personal layers, or a whole model as Ditto, pFedMe and
   * APFL have it) with what the server has. A client that keeps nothing has the server's model. Reports are in the order
   * of the clients, who are taken from the iterable a few at a time, so that not all that they keep is in memory at once.
   */
  async evaluateClients(
    start: SharedStart,
    clients: Iterable<ClientEvaluation>,
    split: SplitName = 'train',
  ): Promise<EvaluateReport[]> {
    const reports: EvaluateReport[] = [];
    const running: Promise<EvaluateReport[]>[] = [];
    const finish = async () => reports.push(...((await running.shift()) as EvaluateReport[]));
    let block: ClientEvaluation[] = [];
    const begin = async () => {
      if (running.length >= this.threads * 2) await finish();
      const promise = this.#piscina.run({ start, split, clients: block }, { name: 'evaluateClients' });
      // Awaited in order; one that fails before its turn must not count as unhandled.
      promise.catch(() => undefined);
      running.push(promise as Promise<EvaluateReport[]>);
      block = [];
    };
    for (const client of clients) {
      block.push(client);
      if (block.length === BLOCK) await begin();
    }
    if (block.length > 0) await begin();
    while (running.length > 0) await finish();
    return reports;
  }

  /** Waits for what is running and ends the threads. */
  async close(): Promise<void> {
    await this.#piscina.close();
  }

  async #fit(
    task: FitTask,
    signal: AbortSignal | undefined,
  ): Promise<{ into: SharedArrayBuffer; reports: ClientReport[] }> {
    const options = signal ? { name: 'fit', signal } : { name: 'fit' };
    const reports = (await this.#piscina.run(task, options)) as ClientReport[];
    return { into: task.into, reports };
  }

  #take(): SharedArrayBuffer {
    return this.#spare.pop() ?? new SharedArrayBuffer(4 * (this.paramsSize + this.stateSize));
  }
}

function shared(values: Float32Array, spent?: SharedArrayBuffer): SharedArrayBuffer {
  const buffer = spent?.byteLength === values.byteLength ? spent : new SharedArrayBuffer(values.byteLength);
  new Float32Array(buffer).set(values);
  return buffer;
}
