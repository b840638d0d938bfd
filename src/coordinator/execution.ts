import type { ResolvedModel } from '../modules/index.ts';
import type { MeshShape } from '../plan/index.ts';
import type { RunEvent } from './events.ts';
import type { ReadyEvent, WaitingThreads, Workers } from './launch/index.ts';
import type { PreparedRun } from './prepare.ts';
import type { NatsPlace, RunFolder, UsableCheckpoint } from './run/index.ts';

/** A run that is about to launch its workers. */
export interface Execution {
  readonly prepared: PreparedRun;
  readonly folder: RunFolder;
  readonly model: ResolvedModel;
  /** `performance.now()` when the user asked for the run. */
  readonly began: number;
  readonly signal: AbortSignal | null;
  /** The checkpoint to continue from, or null. */
  readonly from: UsableCheckpoint | null;
  /** The connection that the run has anyway, if it has one. */
  readonly nats?: NatsPlace;
  /** Where real clients take the place of simulated ones (with `nats`): how many to wait for, and who hears of them. */
  readonly clients?: { readonly min: number | null; readonly emit: (event: RunEvent) => void };
  /** Threads that have been started already, for whoever starts threads of this process. */
  readonly waiting?: WaitingThreads | null;
  /** Starts the workers; null if the signal was raised meanwhile. Default: threads of this process. */
  readonly launch?: (execution: Execution, signal: AbortSignal) => Promise<Launched | null>;
}

/** Workers that are ready. */
export interface Launched {
  readonly workers: Workers;
  /** By rank. */
  readonly ready: readonly ReadyEvent[];
  /** Completed steps from which they go on. */
  readonly step: number;
  /** The mesh of the moment. */
  mesh(): MeshShape;
  /** Times that workers were lost and the run went on, in this process. */
  recoveries(): number;
  /** What the run had behind it, where no checkpoint says so. */
  readonly before?: { readonly wall: number; readonly recoveries: number };
}
