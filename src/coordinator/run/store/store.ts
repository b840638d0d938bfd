import type { ShardReport } from '../../../worker/index.ts';
import type { CheckpointInfo, UsableCheckpoint } from '../checkpoint.ts';

/** Which checkpoints are kept: the newest `last` ones, and those whose step is a multiple of `every` (0: none besides). */
export interface KeepRule {
  readonly last: number;
  readonly every: number;
}

/** A checkpoint that is safe. */
export interface StoredCheckpoint {
  /** Completed steps. */
  readonly step: number;
  /** Folder on this machine in which it can be read. */
  readonly path: string;
  readonly bytes: number;
}

/** Where the checkpoints of one run are kept. A checkpoint is in it whole or not at all. */
export interface CheckpointStore {
  /**
   * Saves a checkpoint: `write` puts the shards into a folder that it is given. One of the same step is replaced.
   * Resolves when it is safe. If anything fails the ones before stay as they are, and nothing else is left behind.
   */
  save(info: CheckpointInfo, write: (folder: string) => Promise<readonly ShardReport[]>): Promise<StoredCheckpoint>;
  /** Steps of the checkpoints that are there, newest first. */
  steps(): Promise<number[]>;
  /**
   * The newest checkpoint that is whole, verified and in a folder of this machine; damaged ones are skipped with a
   * warning. With `step`, that one or an error.
   * @throws CheckpointError if there is none.
   */
  newest(step?: number): Promise<UsableCheckpoint>;
  /** Deletes what the rule does not keep, and what crashed writers left. */
  prune(rule: KeepRule): Promise<void>;
}
