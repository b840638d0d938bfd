import type { GenerationRecord } from '../../worker/index.ts';
import type { RunEvent } from '../events.ts';
import type { FormingTools } from './generation.ts';
import type { LeaderLock } from './leader-lock.ts';
import type { MeshPlans } from './mesh-plans.ts';
import type { Records } from './records.ts';

/** What a supervisor is told. */
export interface SupervisorOptions {
  readonly records: Records;
  readonly lock: LeaderLock;
  readonly plans: MeshPlans;
  readonly tools: Omit<FormingTools, 'agents' | 'records' | 'ways' | 'firstGeneration' | 'mark'>;
  /** The last generation that any coordinator of this job began. */
  readonly last: GenerationRecord | null;
  /** Snapshots of generations before this one are of another run; null: all that were there before. */
  readonly firstGeneration: number | null;
  readonly minWorkers: number | null;
  readonly maxWorkers: number | null;
  /** Whether this run has trained before, under another coordinator: it may go on with one worker. */
  readonly started: boolean;
  readonly deadlineMs: number;
  readonly waitMs: number;
  /** Whether a step must have the same bits whenever and wherever it is done. */
  readonly exact: boolean;
  readonly maxRecoveries: number;
  readonly emit: (event: RunEvent) => void;
}
