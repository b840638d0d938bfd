import type { WorkerJob } from '../../worker/index.ts';
import type { InstructionNames } from './progress.ts';
import type { WaitingThreads } from './waiting-threads.ts';

/** How to launch workers. */
export interface PoolOptions {
  /** One job a rank, without the progress buffer, which the pool adds. */
  readonly jobs: readonly WorkerJob[];
  /** The module that a worker thread runs. It gets `{ job, links }` as workerData. */
  readonly entry: URL;
  /** How long a rank may be silent, in milliseconds. */
  readonly deadlineMs: number;
  /** How long starting (reading weights, tracing, compiling) may take, in milliseconds. Default five minutes. */
  readonly startDeadlineMs?: number;
  /** How long a report that only follows from another waits for the cause, in milliseconds. */
  readonly graceMs?: number;
  /** How long threads may take to end by themselves before they are ended by force, in milliseconds. */
  readonly closeMs?: number;
  readonly names: InstructionNames;
  /** Threads of `entry` that have been started already. */
  readonly waiting?: WaitingThreads | undefined;
}
