import type { SplitName } from '../../data/index.ts';
import type { ChosenExamples, LeafValues, ShardReport, StepReport, TransitionAnswers } from '../../worker/index.ts';

/** The state of all ranks at one position, copied: training may go on while it is written. */
export interface WorkersSnapshot {
  /** Completed steps. */
  readonly step: number;
  /** Which ranks hold other bits of something than others do; null if all agree. */
  readonly differing: string | null;
  /** Writes the shards into an existing folder; resolves when they are on the disk. */
  write(dir: string): Promise<ShardReport[]>;
  /** Lets go of the copies. Must be called once, also after `write` has failed. */
  release(): void;
}

/** The ranks of a run, wherever they are: threads of this process, or agents behind a NATS server. */
export interface Workers {
  readonly world: number;
  /** Whether ranks may be many steps ahead of their reports where steps are short. Default: a few. */
  readonly runsAhead?: boolean;
  /** Lets every rank run steps up to `until` (exclusive). */
  grant(until: number): void;
  /** Every rank's report of a step, in order of ranks. @throws RunFailure if a rank fails */
  step(step: number): Promise<StepReport[]>;
  /** Evaluates, on just these examples if they are given; every rank's leaf values of each metric. */
  evaluate(
    split: SplitName,
    maxMicrobatches: number | null,
    chosen?: ChosenExamples,
  ): Promise<Readonly<Record<string, LeafValues>>[]>;
  /**
   * Lets every rank change its parameters and slots by a transition of the objective; what it says of each parameter, by path. Absent
   * where that cannot be done.
   */
  transition?(name: string, args: unknown): Promise<TransitionAnswers>;
  /** Copies the state of all ranks between two steps. Training waits only for this. */
  snapshot(): Promise<WorkersSnapshot>;
  /** Lets the ranks end in good order and returns what they traced, by rank. */
  stop(): Promise<unknown[]>;
  /** Ends everything at once and waits until it is gone. */
  terminate(): Promise<void>;
}
