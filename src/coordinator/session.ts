import type { SplitName } from '../data/index.ts';
import type { ResolvedConfig } from './config/index.ts';
import type { EvaluatedEvent, StepEvent } from './events.ts';

/** Which part of the data to evaluate on, and how much of it. */
export interface EvaluateOptions {
  readonly split: SplitName;
  /** Microbatches to use, from the start of the split; null for all. */
  readonly microbatches: number | null;
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
   * Copies the state at the current position and begins to write it as a checkpoint; old ones are deleted once it is
   * safe. Training may go on at once. If another is being written that is waited for first. The run itself yields
   * `checkpointed` when it is safe, or a warning, and ends with an error if the last one of a run fails.
   */
  checkpoint(): Promise<void>;
}
