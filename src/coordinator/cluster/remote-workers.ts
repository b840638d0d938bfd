import type { SplitName } from '../../data/index.ts';
import type {
  AgentEvent,
  LeafValues,
  ShardReport,
  SnapshotCommand,
  StepReport,
  WorkerCommand,
  WorkerEvent,
} from '../../worker/index.ts';
import { Ending } from '../ending.ts';
import type { Workers, WorkersSnapshot } from '../launch/workers.ts';
import { differingReplicas } from '../replicas.ts';
import { Answers } from './answers.ts';
import type { Crew } from './crew.ts';
import { SourceGone } from './errors.ts';
import type { RankSnapshot } from './snapshot-writer.ts';
import { StepResults, type StepResultsOptions } from './step-results.ts';

/** What stands behind the workers. */
export interface WorkersBackground extends StepResultsOptions {
  /** Completed steps that are known of: the first generation goes on from one of them. */
  readonly step: number;
  /** Makes sure that this coordinator still leads. */
  confirm(): Promise<void>;
  /** Writes the shards of a snapshot. @throws SourceGone */
  writeShards(dir: string, snapshots: readonly RankSnapshot[]): Promise<ShardReport[]>;
  /** Lets go of the ranks' copies. */
  free(snapshots: readonly RankSnapshot[]): void;
  /** Everything that was asked has been answered, and no step is under way. */
  quiet(): void;
  /** A step or another answer is complete. */
  progress(completed: number): void;
  terminate(): Promise<void>;
}

interface Operation {
  readonly id: number;
  /** Completed steps at which it must be done. */
  readonly at: number;
  readonly command: WorkerCommand | SnapshotCommand;
  /** The ranks of the present generation have been asked. */
  started: boolean;
  readonly resolve: (answers: unknown[]) => void;
  readonly reject: (error: Error) => void;
}

/**
 * The ranks of a run behind agents, for a session that need not know about generations: what is in flight when one ends is
 * done again by the next, from a step that all of it has completed. Steps that were reported before are compared with what
 * they were then.
 */
export class RemoteWorkers implements Workers {
  readonly #background: WorkersBackground;
  #crew: Crew | null = null;
  #answers = new Answers(0);
  #held = false;
  #granted: number;
  #sent = 0;
  /** Steps that every rank has reported. */
  #completed: number;
  readonly #results: StepResults;
  readonly #finished = new Map<number, StepReport[]>();
  readonly #waiting = new Map<number, (reports: StepReport[]) => void>();
  #operations: Operation[] = [];
  #ids = 0;
  #begun = false;
  #stopping = false;
  readonly #ending = new Ending();

  constructor(background: WorkersBackground) {
    this.#background = background;
    this.#granted = background.step;
    this.#completed = background.step;
    this.#results = new StepResults(background);
  }

  get world(): number {
    return this.#crew?.seats.length ?? 0;
  }

  /** Completed steps that were reported in full: what must not be rolled back to is later than this. */
  get completed(): number {
    return this.#completed;
  }

  /** Whether nothing is under way. */
  get isQuiet(): boolean {
    return !this.#operations.some(({ started }) => started) && this.#completed >= this.#sent;
  }

  /** Rejects when nothing will be answered any more. */
  get failed(): Promise<never> {
    return this.#ending.wait();
  }

  get stopping(): boolean {
    return this.#stopping;
  }

  // What the session calls.

  grant(until: number): void {
    this.#granted = Math.max(this.#granted, until);
    if (!this.#held) this.#sendRun(this.#granted);
  }

  async step(step: number): Promise<StepReport[]> {
    const reports = await this.#ending.before(
      new Promise<StepReport[]>((resolve) => {
        const there = this.#finished.get(step);
        if (there) resolve(there);
        else this.#waiting.set(step, resolve);
      }),
    );
    this.#waiting.delete(step);
    this.#finished.delete(step);
    await this.#background.confirm();
    return reports;
  }

  evaluate(split: SplitName, maxMicrobatches: number | null): Promise<Readonly<Record<string, LeafValues>>[]> {
    const id = this.#ids++;
    return this.#operate(id, this.#granted, { type: 'evaluate', id, split, maxMicrobatches });
  }

  async snapshot(): Promise<WorkersSnapshot> {
    const step = this.#granted;
    let taken = await this.#snapshotAt(step);
    return {
      step,
      differing: differingReplicas(
        step,
        taken.map(({ digests }) => digests),
      ),
      write: async (dir) => {
        for (let attempt = 1; ; attempt++)
          try {
            return await this.#background.writeShards(dir, taken);
          } catch (error) {
            if (!(error instanceof SourceGone) || attempt === 5) throw error;
            taken = await this.#snapshotAt(step);
          }
      },
      release: () => this.#background.free(taken),
    };
  }

  async stop(): Promise<unknown[]> {
    this.#stopping = true;
    const traces = await this.#operate<unknown>(this.#ids++, this.#granted, { type: 'stop' });
    await this.#background.terminate();
    return traces;
  }

  terminate(): Promise<void> {
    return this.#background.terminate();
  }

  // What the supervisor calls.

  /** A generation is ready. Everything that is unanswered is asked again. */
  begin(crew: Crew): void {
    // The session begins where the first generation does, and repeats nothing itself.
    if (!this.#begun) this.#granted = this.#completed = crew.fromStep;
    this.#begun = true;
    this.#crew = crew;
    this.#answers = new Answers(crew.seats.length);
    this.#held = false;
    this.#sent = crew.fromStep;
    const operations = this.#operations.sort((a, b) => a.at - b.at || a.id - b.id);
    this.#operations = [];
    for (const operation of operations) operation.started = false;
    for (const operation of operations) {
      if (operation.at < crew.fromStep) {
        operation.reject(
          new SourceGone(
            `the run went on from step ${crew.fromStep}, and what was asked of step ${operation.at} can no longer be done`,
          ),
        );
        continue;
      }
      this.#sendRun(operation.at);
      this.#start(operation);
    }
    this.#sendRun(this.#granted);
  }

  /** The generation has ended: nothing that its ranks still say counts. */
  end(): void {
    this.#crew = null;
  }

  /** Gives no further permission, so that all ranks come to rest at the same step. */
  hold(): void {
    this.#held = true;
    if (this.isQuiet) this.#background.quiet();
  }

  /** Nothing will be answered any more. */
  fail(error: Error): void {
    this.#ending.end(error);
    for (const { reject } of this.#operations.splice(0)) reject(error);
  }

  /** Gives up waiting for the ranks' good-byes: one of them was lost, and there is nothing else to lose. */
  endStop(): void {
    for (const { resolve } of this.#operations.splice(0)) resolve([]);
  }

  /** Takes what a rank of the present generation says. */
  receive(rank: number, event: WorkerEvent): void {
    if (!this.#crew) return;
    if (event.type === 'step') this.#stepped(rank, event.report);
    if (event.type === 'evaluated') this.#answered(event.id, rank, event.metrics);
    if (event.type === 'stopped') {
      const stop = this.#operations.find(({ command }) => command.type === 'stop');
      if (stop) this.#answered(stop.id, rank, event.trace);
    }
  }

  /** Takes a snapshot that a rank was asked for. */
  receiveSnapshot({ id, agent, rank, snapshot, digests }: Extract<AgentEvent, { type: 'snapshot' }>): void {
    if (this.#crew) this.#answered(id, rank, { agent, rank, snapshot, digests } satisfies RankSnapshot);
  }

  #snapshotAt(step: number): Promise<RankSnapshot[]> {
    const id = this.#ids++;
    return this.#operate(id, step, { type: 'snapshot', id });
  }

  #operate<T>(id: number, at: number, command: WorkerCommand | SnapshotCommand): Promise<T[]> {
    return this.#ending.before(
      new Promise<T[]>((resolve, reject) => {
        const operation: Operation = {
          id,
          at,
          command,
          started: false,
          resolve: (answers) => resolve(answers as T[]),
          reject,
        };
        // What is past cannot be asked of ranks that have gone on; a generation that begins earlier can.
        if (at < this.#sent && this.#crew)
          reject(new SourceGone(`the ranks have gone on beyond step ${at} and no longer have its state`));
        else if (this.#crew && !this.#held) this.#start(operation);
        else this.#operations.push(operation);
      }),
    );
  }

  #start(operation: Operation): void {
    operation.started = true;
    this.#operations.push(operation);
    const { seats, send } = this.#crew as Crew;
    for (const rank of seats.keys()) send(rank, operation.command);
  }

  #sendRun(until: number): void {
    if (!this.#crew || until <= this.#sent) return;
    this.#sent = until;
    const { seats, send } = this.#crew;
    for (const rank of seats.keys()) send(rank, { type: 'run', until });
  }

  #answered(id: number, rank: number, answer: unknown): void {
    const all = this.#answers.put(`operation ${id}`, rank, answer);
    const operation = this.#operations.find((other) => other.id === id);
    if (!all || !operation) return;
    this.#operations = this.#operations.filter((other) => other !== operation);
    operation.resolve(all);
    this.#progressed();
  }

  #stepped(rank: number, report: StepReport): void {
    const all = this.#answers.put(`step ${report.step}`, rank, report);
    if (!all) return;
    const { step } = report;
    const problem = this.#results.differs(step, all, this.#crew?.generation ?? 0);
    if (problem) {
      this.fail(problem);
      return;
    }
    if (step === this.#completed) {
      this.#completed += 1;
      this.#finished.set(step, all);
      this.#waiting.get(step)?.(all);
    }
    this.#progressed();
  }

  #progressed(): void {
    this.#background.progress(this.#completed);
    if (this.#held && this.isQuiet) this.#background.quiet();
  }
}
