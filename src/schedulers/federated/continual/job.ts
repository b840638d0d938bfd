import type { SplitName } from '../../../data/index.ts';
import type { ScenarioShape } from '../../continual/scenario.ts';
import type { ScenarioConfig } from '../../continual/schema.ts';
import type { Course } from '../../continual/strategy.ts';

/** What a thread must know of a sequence of tasks: plain data, part of a `FitJob`. */
export interface ContinualJob {
  readonly scenario: ScenarioConfig;
  /** The split that tasks are evaluated on. */
  readonly split: SplitName;
  readonly strategy: string;
  /** The strategy's own keys, with their defaults. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly shape: ScenarioShape;
  /** Passes over its examples that a client makes in a round. */
  readonly epochs: number;
  /** Rounds of a task. */
  readonly rounds: number;
}

/** Clients have no steps of the whole run by which a rule could go. */
export const NO_COURSE: Course = { ends: [], pauses: [], epochs: 1 };

/** What one client's fit is about, where there are tasks. */
export interface ClientTasks {
  /** The task of now, from 0. */
  readonly task: number;
  /** Whether it is over: nothing is trained then, but the strategy does what it does at the end of a task. */
  readonly over: boolean;
  /** The client's own examples of each task. */
  readonly examples: readonly Int32Array[];
}
