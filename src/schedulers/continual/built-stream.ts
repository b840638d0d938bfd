import type { PreparedStream } from '../../data/index.ts';
import type { PhaseRun } from '../../optim/index.ts';
import type { StreamCost } from './stream-costs.ts';

/** One example of a step. */
export interface Entry {
  /** Number of the dataset's training example, or of a made one (`StreamBuilder.reserve`). */
  readonly example: number;
  /** Task that it belongs to. */
  readonly task: number;
  /** Its share of the step's loss, so that a step's weights have the mean 1. 0 for one that only fills a batch. */
  readonly weight: number;
  /** The output that is right. Default: that of its class in the dataset; made examples must say. */
  readonly output?: number;
  /** View through which its input is seen; -1 for none. Default: its task's. */
  readonly view?: number;
  /** Outputs that take part in its loss; default: those of its task where tasks are known, else all. */
  readonly outputs?: readonly number[];
  /**
   * Values of the strategy's own targets of shape [] by name (left out: -1 for int32, 0 for float32), and rows of its other ones.
   */
  readonly marks?: Readonly<Record<string, number>>;
}

/** Examples that are kept. */
export interface Remembered {
  readonly held: readonly { readonly example: number; readonly task: number }[];
}

/** A place where a strategy does something in the middle of a task. */
export interface Pause {
  /** Completed steps. */
  readonly step: number;
  readonly name: string;
}

/** What a strategy has decided about steps: part of `SchedulerPlan`. */
export interface BuiltStream {
  readonly data: PreparedStream;
  readonly steps: number;
  readonly phases: readonly PhaseRun[];
  /** Completed steps at the end of each task, observing steps included. */
  readonly ends: readonly number[];
  readonly pauses: readonly Pause[];
  /** What each task's steps come to, and what is held after it. */
  readonly costs: readonly StreamCost[];
  /** Names of the strategy's own targets. */
  readonly own: readonly string[];
  /** First position of each task's evaluation examples, and the end: `tasks + 1` numbers. */
  readonly evaluation: readonly number[];
}
