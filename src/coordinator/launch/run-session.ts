import { compresses } from '../../comm/index.ts';
import type { SplitName } from '../../data/index.ts';
import type { Model } from '../../modules/index.ts';
import type { HostTensor } from '../../tensor/index.ts';
import { SPAN, type StepReport, type TransitionAnswers } from '../../worker/index.ts';
import type { ResolvedConfig } from '../config/index.ts';
import type { EvaluatedEvent, RunEvent, StepEvent } from '../events.ts';
import { finishMetrics } from '../metrics.ts';
import { differingNorms } from '../replicas.ts';
import type { CheckpointError, CheckpointInfo, CheckpointStore, MetricsLog, UsableCheckpoint } from '../run/index.ts';
import type { EvaluateOptions, PredictOptions, Session } from '../session.ts';
import { type Stretch, stretchAt } from '../stretch.ts';
import { CheckpointWriter, type WriterEvent } from './checkpoint-writer.ts';
import { predictRows } from './rows.ts';
import { readSchedulerTensor, withSchedulerTensors } from './scheduler-tensors.ts';
import { diverged, numberOf, stepEvent, stepLine } from './step-event.ts';
import type { Workers } from './workers.ts';

type WarningEvent = Extract<RunEvent, { type: 'warning' }>;

/** Steps that ranks may be ahead of the coordinator, so that they never wait for its permission. */
const WINDOW = 2;
/** And where steps are short: as many as take about so many milliseconds, at most `LONGEST_WINDOW`. */
const WINDOW_MS = 100;
const LONGEST_WINDOW = 64;
/** Steps after which it is known what they take. */
const TIMED = 16;

/** What a session needs besides its workers. */
export interface SessionParts {
  readonly config: ResolvedConfig;
  readonly pool: Workers;
  readonly store: CheckpointStore;
  readonly log: MetricsLog;
  readonly signal: AbortSignal;
  /** Completed steps to continue from. */
  readonly step: number;
  readonly microbatches: number;
  /** Tokens of an example, or 1. */
  readonly tokensPerExample: number;
  readonly unit: 'tokens' | 'examples';
  /** What the steps are. */
  readonly stretches: readonly Stretch[];
  /** Absolute path of the run folder. */
  readonly folder: string;
  /** Whether all ranks have the same gradient in every step: not so where data ranks take local steps. */
  readonly oneGradient: boolean;
  /** What the scheduler's preparation made. */
  readonly plan: unknown;
  /** As the ranks train it. */
  readonly model: Model;
  /** Floating-point operations of one training example. */
  readonly flops: Session['flops'];
  /** The checkpoint that the run begins from, or null. */
  readonly from: UsableCheckpoint | null;
  /** Examples that a microbatch of `predict` may have. */
  readonly largestPrediction: number;
  /** Microbatches of an evaluation of a whole split. */
  evaluationMicrobatches(split: SplitName): number;
  /** What the index of a checkpoint says besides the step. */
  checkpointInfo(): Omit<CheckpointInfo, 'step'>;
}

/** A session over workers, wherever they are. */
export class RunSession implements Session {
  readonly config: ResolvedConfig;
  readonly signal: AbortSignal;
  readonly #parts: SessionParts;
  #position: number;
  #granted: number;
  readonly #writer: CheckpointWriter;
  #warnedOfLog = false;
  /** What ranks have noted and nobody has been told. */
  readonly #notes: string[] = [];
  #warnedOfReplicas = false;
  /** Whether the newest checkpoint has tensors of the scheduler's own. */
  #keptBySchedulers = false;
  /** The newest results, for the summary. */
  lastStep: StepEvent | null = null;
  readonly evaluations = new Map<SplitName, EvaluatedEvent>();
  /** What the scheduler adds to the summary. */
  readonly reported: Record<string, unknown> = {};
  #stepTime = 0;
  #timedSteps = 0;

  constructor(parts: SessionParts, resumedFrom: string | null) {
    this.config = parts.config;
    this.signal = parts.signal;
    this.#parts = parts;
    this.#position = parts.step;
    this.#granted = parts.step;
    this.#writer = new CheckpointWriter({
      store: parts.store,
      log: parts.log,
      train: parts.config.train,
      from: resumedFrom === null ? null : { step: parts.step, path: resumedFrom },
    });
  }

  get position(): number {
    return this.#position;
  }

  get saved(): number | null {
    return this.#writer.writing ?? this.#writer.last?.step ?? null;
  }

  get plan(): unknown {
    return this.#parts.plan;
  }

  get model(): Model {
    return this.#parts.model;
  }

  get flops(): Session['flops'] {
    return this.#parts.flops;
  }

  get folder(): string {
    return this.#parts.folder;
  }

  /** Folder of the newest checkpoint that is safe, or null. */
  get checkpointPath(): string | null {
    return this.#writer.last?.path ?? null;
  }

  /** Rate of this session's training steps, evaluations and checkpoints left out; `perStep` is the work of one. */
  ratePerSecond(perStep: number): number {
    return this.#stepTime === 0 ? 0 : Math.round((this.#timedSteps * perStep * 10_000) / this.#stepTime) / 10;
  }

  async *steps(until: number): AsyncGenerator<StepEvent> {
    const { pool } = this.#parts;
    let before = performance.now();
    while (this.#position < until) {
      // A checkpoint that was lost is made up for where all ranks stand at one step.
      if (this.#mustMakeUp && this.#position === this.#granted && !this.signal.aborted) await this.checkpoint();
      this.#grantUpTo(until);
      // What was granted is run to its end even after an abort: all ranks must stop at the same step.
      if (this.#position === this.#granted) return;
      const reports = await pool.step(this.#position);
      this.#position += 1;
      // Granted before anything else is done with the reports, so that no rank waits for it.
      this.#grantUpTo(until);
      const now = performance.now();
      const event = await this.#finish(reports, now - before);
      this.#stepTime += now - before;
      this.#timedSteps += 1;
      before = now;
      await this.#record(event);
      this.lastStep = event;
      yield event;
    }
  }

  async evaluate({ split, microbatches }: EvaluateOptions): Promise<EvaluatedEvent> {
    const before = performance.now();
    const whole = this.#parts.evaluationMicrobatches(split);
    const count = microbatches === null ? whole : Math.min(whole, microbatches);
    if (count === 0)
      throw new Error(`the dataset has no ${split} part to evaluate on; set train.eval_split to another`);
    const reports = await this.#parts.pool.evaluate(split, count);
    const metrics = finishMetrics(reports, count);
    const loss = numberOf(metrics, 'loss');
    const event: EvaluatedEvent = {
      type: 'evaluated',
      step: this.#position,
      split,
      microbatches: count,
      loss,
      metrics,
      ms: performance.now() - before,
    };
    this.evaluations.set(split, event);
    return event;
  }

  predict(options: PredictOptions): Promise<Readonly<Record<string, Float32Array>>> {
    return predictRows(this.#parts.pool, options, this.config.batch.micro, this.#parts.largestPrediction);
  }

  get transitions(): boolean {
    return this.#parts.pool.transition !== undefined;
  }

  async transition(name: string, args: unknown): Promise<TransitionAnswers> {
    const { pool } = this.#parts;
    if (!pool.transition)
      throw new Error(
        `scheduler ${this.config.scheduler.name} changes parameters between tasks, which workers behind a NATS server do not do yet: leave out --nats`,
      );
    return pool.transition(name, args);
  }

  async restored(name: string): Promise<HostTensor | null> {
    const { from } = this.#parts;
    return from && readSchedulerTensor(from, name);
  }

  report(values: Readonly<Record<string, unknown>>): void {
    Object.assign(this.reported, values);
  }

  async checkpoint(kept: Readonly<Record<string, HostTensor>> = {}): Promise<void> {
    const began = performance.now();
    const writer = this.#writer;
    // Never more than one copy is held for writing: a disk that is too slow slows training down.
    await writer.idle();
    this.checkStop();
    const snapshot = await this.#parts.pool.snapshot();
    this.#compared(snapshot.differing);
    this.#keptBySchedulers = Object.keys(kept).length > 0;
    writer.start(withSchedulerTensors(snapshot, kept), this.#parts.checkpointInfo(), {
      began,
      waitedMs: performance.now() - began,
    });
  }

  /** What has become of checkpoints since the last call, and of the log, and what ranks have noted. */
  news(): (WriterEvent | WarningEvent)[] {
    const { full, path } = this.#parts.log;
    const warned = this.#warnedOfLog;
    this.#warnedOfLog = full !== null;
    const message = `${path} cannot be written (${full}): its lines are kept in memory until there is room`;
    const messages = [...this.#notes.splice(0), ...(full !== null && !warned ? [message] : [])];
    return [...messages.map((each) => ({ type: 'warning' as const, message: each })), ...this.#writer.events()];
  }

  /** Waits until nothing is being written. Never rejects. */
  settle(): Promise<void> {
    return this.#writer.idle();
  }

  /** Why the newest checkpoint could not be written, if that is so; a warning about it is then the last of `news`. */
  get failed(): CheckpointError | null {
    return this.#writer.failure;
  }

  /** @throws CheckpointError if the newest checkpoint could not be written and the config says to stop then */
  checkStop(): void {
    if (this.failed && this.config.train.checkpoint_on_error === 'stop') throw this.failed;
  }

  /** (What a scheduler keeps in a checkpoint only it can give again.) */
  get #mustMakeUp(): boolean {
    return this.#writer.lost && !this.#keptBySchedulers;
  }

  #grantUpTo(end: number): void {
    if (this.signal.aborted || this.#mustMakeUp) return;
    const window = this.#window();
    // Half a window at a time, so that permission for short steps costs a message for many of them.
    if (this.#granted - this.#position > window / 2) return;
    const until = Math.min(end, this.#position + window);
    if (until <= this.#granted) return;
    this.#granted = until;
    this.#parts.pool.grant(until);
  }

  #window(): number {
    if (!this.#parts.pool.runsAhead || this.#timedSteps < TIMED) return WINDOW;
    const steps = Math.ceil((WINDOW_MS * this.#timedSteps) / Math.max(1, this.#stepTime));
    if (steps < SPAN) return Math.max(WINDOW, steps);
    // Half a window is what is granted at a time: whole spans, which ranks run as one.
    return Math.min(LONGEST_WINDOW, 2 * SPAN * Math.ceil(steps / (2 * SPAN)));
  }

  /** @throws RunFailure if the run has diverged */
  async #finish(reports: readonly StepReport[], ms: number): Promise<StepEvent> {
    const { microbatches, tokensPerExample, config, stretches } = this.#parts;
    const units = config.batch.global * tokensPerExample;
    // (Ranks of one step have much the same to say.)
    const noted = reports.find(({ note }) => note !== undefined);
    if (noted) this.#notes.push(noted.note as string);
    if (this.#parts.oneGradient) this.#compared(differingNorms(reports));
    const stretch = stretchAt(stretches, this.#position);
    const event = {
      ...stepEvent(reports, { step: this.#position, microbatches, units, ms }),
      ...(stretch ? { stretch } : {}),
    };
    if (Number.isFinite(event.loss) && Number.isFinite(event.gradNorm)) return event;
    await this.settle();
    throw diverged(event, this.checkpointPath);
  }

  /** Replicas have been compared. (The first difference is told: all that comes later follows from it.) */
  #compared(differing: string | null): void {
    if (differing === null || this.#warnedOfReplicas) return;
    this.#warnedOfReplicas = true;
    this.#notes.push(differing);
  }

  async #record(event: StepEvent): Promise<void> {
    const { log, unit, config } = this.#parts;
    const observes = event.stretch?.observes ?? false;
    await log.append(stepLine(event, { unit, observes, compresses: compresses(config.comm.compression) }));
  }
}
