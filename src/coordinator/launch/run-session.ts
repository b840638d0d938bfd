import type { SplitName } from '../../data/index.ts';
import type { StepReport } from '../../worker/index.ts';
import type { ResolvedConfig } from '../config/index.ts';
import type { CheckpointedEvent, EvaluatedEvent, StepEvent } from '../events.ts';
import { RunFailure } from '../failure.ts';
import { finishMetrics, type Metrics } from '../metrics.ts';
import {
  type CheckpointInfo,
  type MetricsLog,
  pruneCheckpoints,
  type RunFolder,
  saveCheckpoint,
  verifyCheckpoint,
} from '../run/index.ts';
import type { EvaluateOptions, Session } from '../session.ts';
import type { WorkerPool } from './pool.ts';

/** Steps that ranks may be ahead of the coordinator, so that they never wait for its permission. */
const WINDOW = 2;

/** What a session needs besides its workers. */
export interface SessionParts {
  readonly config: ResolvedConfig;
  readonly pool: WorkerPool;
  readonly folder: RunFolder;
  readonly log: MetricsLog;
  readonly signal: AbortSignal;
  /** Completed steps to continue from. */
  readonly step: number;
  readonly microbatches: number;
  /** Tokens of an example, or 1. */
  readonly tokensPerExample: number;
  readonly unit: 'tokens' | 'examples';
  /** Microbatches of an evaluation of a whole split. */
  evaluationMicrobatches(split: SplitName): number;
  /** What the index of a checkpoint says besides the step. */
  checkpointInfo(): Omit<CheckpointInfo, 'step'>;
}

/** A session over a pool of worker threads. */
export class RunSession implements Session {
  readonly config: ResolvedConfig;
  readonly signal: AbortSignal;
  readonly #parts: SessionParts;
  #position: number;
  #granted: number;
  #saved: number | null = null;
  #checkpoint: string | null = null;
  /** The newest results, for the summary. */
  lastStep: StepEvent | null = null;
  readonly evaluations = new Map<SplitName, EvaluatedEvent>();
  #stepTime = 0;
  #timedSteps = 0;

  constructor(parts: SessionParts, resumedFrom: string | null) {
    this.config = parts.config;
    this.signal = parts.signal;
    this.#parts = parts;
    this.#position = parts.step;
    this.#granted = parts.step;
    this.#checkpoint = resumedFrom;
    this.#saved = resumedFrom === null ? null : parts.step;
  }

  get position(): number {
    return this.#position;
  }

  get saved(): number | null {
    return this.#saved;
  }

  /** Folder of the newest checkpoint, or null. */
  get checkpointPath(): string | null {
    return this.#checkpoint;
  }

  /** Rate of this session's training steps, evaluations and checkpoints left out; `perStep` is the work of one. */
  ratePerSecond(perStep: number): number {
    return this.#stepTime === 0 ? 0 : Math.round((this.#timedSteps * perStep * 10_000) / this.#stepTime) / 10;
  }

  async *steps(until: number): AsyncGenerator<StepEvent> {
    const { pool } = this.#parts;
    let before = performance.now();
    while (this.#position < until) {
      if (!this.signal.aborted) this.#grant(Math.min(until, this.#position + WINDOW));
      // What was granted is run to its end even after an abort: all ranks must stop at the same step.
      if (this.#position === this.#granted) return;
      const reports = await pool.step(this.#position);
      this.#position += 1;
      // Granted before anything else is done with the reports, so that no rank waits for it.
      if (!this.signal.aborted) this.#grant(Math.min(until, this.#position + WINDOW));
      const now = performance.now();
      const event = this.#finish(reports, now - before);
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

  async checkpoint(): Promise<CheckpointedEvent> {
    const before = performance.now();
    const { folder, log, pool } = this.#parts;
    // The losses that lead up to a checkpoint must not be lost once it is there.
    await log.flush();
    const info = { ...this.#parts.checkpointInfo(), step: this.#position };
    const path = await saveCheckpoint(folder.checkpoints, info, (temporary) => pool.checkpoint(temporary));
    const { shards } = await verifyCheckpoint(path);
    this.#saved = this.#position;
    this.#checkpoint = path;
    await pruneCheckpoints(folder.checkpoints, this.config.train.keep_last);
    const bytes = shards.reduce((sum, shard) => sum + shard.bytes, 0);
    return { type: 'checkpointed', step: this.#position, path, bytes, ms: performance.now() - before };
  }

  #grant(until: number): void {
    if (until <= this.#granted) return;
    this.#granted = until;
    this.#parts.pool.grant(until);
  }

  #finish(reports: readonly StepReport[], ms: number): StepEvent {
    const { microbatches, tokensPerExample, config } = this.#parts;
    const metrics = finishMetrics(
      reports.map((report) => report.metrics),
      microbatches,
    );
    const loss = numberOf(metrics, 'loss');
    const { gradNorm, lr } = reports[0] as StepReport;
    if (!Number.isFinite(loss) || !Number.isFinite(gradNorm)) throw this.#notFinite(loss, gradNorm);
    return {
      type: 'step',
      step: this.#position,
      loss,
      gradNorm,
      lr,
      perSecond: (config.batch.global * tokensPerExample * 1000) / ms,
      stepMs: Math.max(...reports.map((report) => report.stepMs)),
      commMs: Math.max(...reports.map((report) => report.commMs)),
      metrics,
    };
  }

  async #record(event: StepEvent): Promise<void> {
    const { loss, ...others } = event.metrics;
    await this.#parts.log.append({
      step: event.step,
      loss: event.loss,
      grad_norm: event.gradNorm,
      lr: event.lr,
      [`${this.#parts.unit}_per_s`]: Math.round(event.perSecond * 10) / 10,
      step_ms: Math.round(event.stepMs * 1000) / 1000,
      comm_ms: Math.round(event.commMs * 1000) / 1000,
      ...others,
    });
  }

  #notFinite(loss: number, gradNorm: number): RunFailure {
    const kept =
      this.#checkpoint === null ? 'no checkpoint had been written' : `the last good checkpoint is ${this.#checkpoint}`;
    return new RunFailure([
      {
        rank: 0,
        path: null,
        instruction: null,
        microbatch: null,
        step: this.#position - 1,
        name: 'NotFinite',
        message: `the loss is ${loss} and the gradient norm ${gradNorm}: training has diverged; ${kept}\nlower optim.lr, warm it up for longer, or set optim.clip_norm`,
        stack: '',
        secondary: false,
      },
    ]);
  }
}

function numberOf(metrics: Metrics, name: string): number {
  const value = metrics[name];
  if (typeof value !== 'number')
    throw new Error(`no rank reported the metric '${name}'; there are: ${Object.keys(metrics).join(', ')}`);
  return value;
}
