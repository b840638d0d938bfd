import { Worker } from 'node:worker_threads';
import { createLocalLinks } from '../../comm/index.ts';
import type { SplitName } from '../../data/index.ts';
import {
  type ChosenExamples,
  culpritOf,
  type FailureReport,
  formatCulprit,
  type LeafValues,
  type RankState,
  readFlight,
  SnapshotShelf,
  type StepReport,
  type TransitionAnswers,
  type WorkerCommand,
  type WorkerEvent,
} from '../../worker/index.ts';
import { Ending } from '../ending.ts';
import { formatLastSeen, RunFailure } from '../failure.ts';
import { FailureReports } from './failure-reports.ts';
import { Gathers } from './gather.ts';
import type { PoolOptions } from './pool-options.ts';
import { ProgressBoard } from './progress.ts';
import { snapshotOf } from './thread-snapshot.ts';
import type { Workers, WorkersSnapshot } from './workers.ts';

/** What a worker says when it can begin. */
export type ReadyEvent = Extract<WorkerEvent, { type: 'ready' }>;

type SnapshottedEvent = Extract<WorkerEvent, { type: 'snapshotted' }>;

/**
 * The worker threads of one run. Whatever happens to one of them (an exception, an exit, silence) ends all of them and
 * rejects whatever is being waited for with one `RunFailure`. After `stop` or `terminate` no thread, port or timer is
 * left.
 */
export class WorkerPool implements Workers {
  readonly world: number;
  readonly #workers: readonly Worker[];
  readonly #exited: readonly Promise<void>[];
  readonly #board: ProgressBoard;
  readonly #options: PoolOptions;
  readonly #answers: Gathers;
  readonly #reports: FailureReports;
  /** By rank, once it has been asked for a copy. */
  readonly #shelves: SnapshotShelf[] = [];
  /** (Nobody may be waiting when a failure comes; the next wait sees it.) */
  readonly #ending = new Ending();
  #watchdog: NodeJS.Timeout | null = null;
  readonly #stopped = new Set<number>();
  #closing = false;
  #ended: Promise<void> | null = null;
  #requests = 0;

  private constructor(options: PoolOptions) {
    const { jobs, entry, names, waiting } = options;
    this.#options = options;
    this.world = jobs.length;
    this.#reports = new FailureReports(options.graceMs ?? 1000, (cause, others) => this.#fail(cause, others));
    this.#answers = new Gathers(this.world);
    this.#board = new ProgressBoard(this.world, names, Date.now());
    const links = createLocalLinks(this.world);
    const there = waiting?.take(entry, jobs.length) ?? null;
    this.#workers = jobs.map((job, rank) => {
      const own = links[rank] as (typeof links)[number];
      const progress = this.#board.buffers[rank] as SharedArrayBuffer;
      const data = { rank, job: { ...job, progress }, links: own };
      const transferList = own.ports.filter((port) => port !== null);
      const waits = there?.[rank];
      if (!waits) return new Worker(entry, { workerData: data, transferList, name: `plexus rank ${rank}` });
      waits.postMessage(data, transferList);
      return waits;
    });
    this.#exited = this.#workers.map((worker, rank) => this.#listen(worker, rank));
  }

  /**
   * Starts the workers and waits until all are ready.
   * @throws RunFailure if one of them fails to start.
   */
  static async start(options: PoolOptions, signal?: AbortSignal): Promise<{ pool: WorkerPool; ready: ReadyEvent[] }> {
    const pool = new WorkerPool(options);
    pool.#watch(options.startDeadlineMs ?? Math.max(300_000, options.deadlineMs));
    try {
      const ready = await pool.#await<ReadyEvent>('ready', signal);
      pool.#watch(options.deadlineMs);
      return { pool, ready };
    } catch (error) {
      await pool.terminate();
      throw error;
    }
  }

  readonly runsAhead = true;

  /** Lets every rank run steps up to `until` (exclusive). */
  grant(until: number): void {
    this.#broadcast({ type: 'run', until });
  }

  /** Every rank's report of a step, in order of ranks. */
  step(step: number): Promise<StepReport[]> {
    return this.#await<StepReport>(`step ${step}`);
  }

  /** Evaluates; every rank's leaf values of each metric. */
  evaluate(
    split: SplitName,
    maxMicrobatches: number | null,
    chosen?: ChosenExamples,
  ): Promise<Readonly<Record<string, LeafValues>>[]> {
    const id = this.#requests++;
    this.#broadcast({ type: 'evaluate', id, split, maxMicrobatches, ...(chosen ? { chosen } : {}) });
    return this.#await(`evaluated ${id}`);
  }

  async transition(name: string, args: unknown): Promise<TransitionAnswers> {
    const id = this.#requests++;
    this.#broadcast({ type: 'transition', id, name, args });
    // Replicas say the same.
    return Object.assign({}, ...(await this.#await<TransitionAnswers>(`changed ${id}`)));
  }

  async snapshot(): Promise<WorkersSnapshot> {
    const id = this.#requests++;
    this.#broadcast({ type: 'snapshot', id });
    const events = await this.#await<SnapshottedEvent>(`snapshotted ${id}`);
    for (const [rank, { share }] of events.entries()) if (share) this.#shelves[rank] = new SnapshotShelf(share);
    return snapshotOf(this.#shelves, events);
  }

  /** Lets the workers end in good order and returns what they traced, by rank. */
  async stop(): Promise<unknown[]> {
    this.#broadcast({ type: 'stop' });
    const traces = await this.#await<unknown>('stopped');
    await this.terminate();
    return traces;
  }

  /** Ends all threads and waits until they are gone. */
  terminate(): Promise<void> {
    this.#closing = true;
    if (this.#watchdog) clearInterval(this.#watchdog);
    this.#reports.close();
    this.#ended ??= this.#end();
    return this.#ended;
  }

  /**
   * Asks the threads to end, and ends by force those that do not. Force is the last resort: a thread that is ended while
   * the engine's native code runs in it takes the whole process along. What does not listen is stuck in JavaScript or
   * waits for a message, and there force is safe.
   */
  async #end(): Promise<void> {
    this.#board.abort();
    this.#broadcast({ type: 'stop' });
    let timer: NodeJS.Timeout | null = null;
    const patience = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, this.#options.closeMs ?? 10_000);
    });
    await Promise.race([Promise.all(this.#exited), patience]);
    if (timer) clearTimeout(timer);
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
    await Promise.all(this.#exited);
  }

  #broadcast(command: WorkerCommand): void {
    for (const worker of this.#workers) worker.postMessage(command);
  }

  /** Waits for the answers of all ranks. */
  #await<T>(key: string, signal?: AbortSignal): Promise<T[]> {
    const now = Date.now();
    for (let rank = 0; rank < this.world; rank++) this.#board.touch(rank, now);
    return this.#answers.all<T>(key, this.#ending, signal);
  }

  #listen(worker: Worker, rank: number): Promise<void> {
    worker.on('message', (event: WorkerEvent) => this.#receive(rank, event));
    worker.on('messageerror', (error) => this.#reports.add(this.#synthetic(rank, error)));
    worker.on('error', (error) => this.#reports.add(this.#synthetic(rank, error)));
    return new Promise((resolve) => {
      worker.on('exit', (code) => {
        resolve();
        if (this.#closing || this.#stopped.has(rank) || this.#reports.of(rank)) return;
        const message = `the worker thread exited with code ${code} without saying why`;
        this.#reports.add(this.#synthetic(rank, namedError('WorkerExit', message)));
      });
    });
  }

  #receive(rank: number, event: WorkerEvent): void {
    this.#board.touch(rank, Date.now());
    switch (event.type) {
      case 'ready':
        this.#answers.put('ready', rank, event);
        break;
      case 'step':
        this.#answers.put(`step ${event.report.step}`, rank, event.report);
        break;
      case 'steps':
        for (const report of event.reports) this.#answers.put(`step ${report.step}`, rank, report);
        break;
      case 'evaluated':
        this.#answers.put(`evaluated ${event.id}`, rank, event.metrics);
        break;
      case 'changed':
        this.#answers.put(`changed ${event.id}`, rank, event.answers);
        break;
      case 'snapshotted':
        this.#answers.put(`snapshotted ${event.id}`, rank, event);
        break;
      case 'stopped':
        this.#stopped.add(rank);
        this.#answers.put('stopped', rank, event.trace);
        break;
      case 'failed':
        this.#reports.add(event.report);
    }
  }

  /** The report of a rank that cannot make its own. */
  #synthetic(rank: number, error: unknown): FailureReport {
    const { name, message, stack } = error instanceof Error ? error : new Error(String(error));
    const instruction = this.#board.look(Date.now())[rank]?.doing ?? null;
    return {
      rank,
      path: null,
      instruction,
      microbatch: null,
      step: null,
      name,
      message,
      stack: stack ?? '',
      secondary: false,
    };
  }

  /** Ends everything because of a failure. */
  #fail(cause: FailureReport, others: readonly FailureReport[]): void {
    const seen = this.#board.look(Date.now());
    const waited = cause.name === 'CommTimeout' || cause.name === 'Hang';
    const flight = waited ? this.#flight() : [];
    const culprit = formatCulprit(culpritOf(flight));
    const known = ['last seen:', formatLastSeen(seen), ...(culprit === null ? [] : [culprit])].join('\n');
    const shown = waited ? { ...cause, message: `${cause.message}\n${known}` } : cause;
    const failure = new RunFailure([shown, ...others], seen, flight);
    // Rejected only when everything is gone, so that whoever sees the failure finds nothing left behind.
    void this.terminate().finally(() => this.#ending.end(failure));
  }

  #flight(): RankState[] {
    return this.#options.jobs.map(({ train, evaluate }, rank) => {
      const progress = this.#board.buffers[rank] as SharedArrayBuffer;
      return readFlight({ rank, generation: 0, progress, train, evaluate });
    });
  }

  #watch(deadlineMs: number): void {
    if (this.#watchdog) clearInterval(this.#watchdog);
    // Transports have the same deadline and say more (who waits for whom): leave them the first word.
    const limit = deadlineMs * 1.25 + 500;
    this.#watchdog = setInterval(() => this.#inspect(limit), Math.min(1000, limit / 4));
    this.#watchdog.unref();
  }

  #inspect(limit: number): void {
    if (this.#reports.any) return;
    const late = this.#board
      .look(Date.now())
      .find(({ rank, sinceMs }) => sinceMs > limit && this.#answers.awaits(rank));
    if (!late) return;
    const seconds = (late.sinceMs / 1000).toFixed(0);
    this.#reports.add(
      this.#synthetic(
        late.rank,
        namedError(
          'Hang',
          `the worker has been silent for ${seconds} s; if its work takes that long, raise comm.deadline_s`,
        ),
      ),
    );
  }
}

/** An error of the pool's own, about a thread: where it was made says nothing. */
function namedError(name: string, message: string): Error {
  return Object.assign(new Error(message), { name, stack: '' });
}
