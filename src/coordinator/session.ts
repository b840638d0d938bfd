import type { SplitName } from '../data/index.ts';
import type { Model } from '../modules/index.ts';
import type { HostTensor } from '../tensor/index.ts';
import type { TransitionAnswers } from '../worker/index.ts';
import type { ResolvedConfig } from './config/index.ts';
import type { EvaluatedEvent, StepEvent } from './events.ts';

/** Which part of the data to evaluate on, and how much of it. */
export interface EvaluateOptions {
  readonly split: SplitName;
  /** Microbatches to use, from the start of the split; null for all. */
  readonly microbatches: number | null;
}

/** What to look at of some examples. */
export interface PredictOptions {
  readonly split: SplitName;
  readonly examples: Int32Array;
  /** Names of metrics that have a row for each example of a microbatch. */
  readonly metrics: readonly string[];
}

/**
 * What a scheduler drives: the workers of one run, started and in the same state. Calls are served one after another;
 * each ends with every rank idle.
 */
export interface Session {
  readonly config: ResolvedConfig;
  /** Raised when the user wants to stop: `steps` ends early, and the scheduler should save and return. */
  readonly signal: AbortSignal;
  /** Completed steps. */
  readonly position: number;
  /** Completed steps of the newest checkpoint, or of the one that is being written; null if there is neither. */
  readonly saved: number | null;
  /**
   * Runs steps until `until` are complete in all, or the signal is raised. Each is written to metrics.jsonl before it is
   * yielded.
   * @throws RunFailure when a worker fails or the loss is not finite.
   */
  steps(until: number): AsyncIterable<StepEvent>;
  /** Evaluates the parameters as they are. The last result on the config's split is the summary's `val_loss`. */
  evaluate(options: EvaluateOptions): Promise<EvaluatedEvent>;
  /**
   * Runs forward over some examples and returns what the model reports of each: rows of the asked metrics, float32
   * `[examples, width]` as one vector.
   * @throws Error if no rank reports a metric, or not a row for each example
   */
  predict(options: PredictOptions): Promise<Readonly<Record<string, Float32Array>>>;
  /** Whether the workers of this run can do transitions. */
  readonly transitions: boolean;
  /**
   * Changes parameters and optimizer slots on all ranks by one of the objective's transitions. Returns what it says of each
   * parameter, by path.
   * @throws Error where the workers of this run cannot
   */
  transition(name: string, args: unknown): Promise<TransitionAnswers>;
  /** What the scheduler's `prepare` has made; null for schedulers without. */
  readonly plan: unknown;
  /** The model as the ranks train it. */
  readonly model: Model;
  /** Floating-point operations that one training example takes. */
  readonly flops: { readonly forward: number; readonly backward: number };
  /** Absolute path of the run folder. */
  readonly folder: string;
  /** A tensor that an earlier `checkpoint` kept for the scheduler; null if the run did not begin from one that has it. */
  restored(name: string): Promise<HostTensor | null>;
  /** Adds to the run's summary. */
  report(values: Readonly<Record<string, unknown>>): void;
  /**
   * Copies the state at the current position and begins to write it as a checkpoint; old ones are deleted once it is
   * safe. Training may go on at once. If another is being written that is waited for first. The run itself yields
   * `checkpointed` when it is safe, or a warning, and ends with an error if the last one of a run fails. `kept`: tensors of the scheduler's own.
   */
  checkpoint(kept?: Readonly<Record<string, HostTensor>>): Promise<void>;
}

/** What measuring a checkpoint needs of a session: workers that hold it, and nothing that trains or writes. */
export type MeasureSession = Pick<
  Session,
  'config' | 'signal' | 'position' | 'predict' | 'transition' | 'plan' | 'model' | 'restored'
>;
