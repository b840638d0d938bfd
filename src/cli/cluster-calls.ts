import type { ConfigInput, Override, RunEvent } from '../coordinator/index.ts';
import type { MeshShape } from '../plan/index.ts';
import type {
  GenerationRecord,
  JobRecord,
  LeaderRecord,
  MemberRecord,
  PositionRecord,
  RankState,
} from '../worker/index.ts';
import type { NatsAccess } from './nats-flags.ts';

/** Where a job is. */
export interface JobPlace {
  readonly nats: NatsAccess;
  readonly job: string;
}

/** Options of the agent that `plexus worker` is. */
export interface AgentOptions extends JobPlace {
  readonly slots: number;
  /** By slot; null leaves it to the job's config. */
  readonly devices?: readonly (string | null)[];
  readonly device?: string;
  readonly listen?: { readonly host: string; readonly port: number };
  readonly leaseMs?: number;
  readonly once?: boolean;
  readonly name?: string;
  readonly log?: (line: string) => void;
  readonly signal?: AbortSignal;
}

/** Options of a run on agents. */
export interface ClusterRunOptions extends JobPlace {
  readonly minWorkers?: number;
  readonly maxWorkers?: number;
  readonly standby?: boolean;
  readonly signal?: AbortSignal;
}

/** What happens in a run on agents besides what happens in any run. */
export type ClusterEvent =
  | { readonly type: 'waiting'; readonly have: number; readonly need: number }
  | {
      readonly type: 'generation';
      readonly generation: number;
      readonly mesh: MeshShape;
      readonly members: readonly { readonly agent: string; readonly slot: number }[];
      readonly links: readonly (readonly string[])[];
      readonly fromStep: number;
      readonly reason: string;
    }
  | {
      readonly type: 'lost';
      readonly agent: string;
      readonly ranks: readonly number[];
      readonly reason: string;
      readonly detectedMs: number;
    }
  | {
      readonly type: 'recovered';
      readonly generation: number;
      readonly step: number;
      readonly detectionMs: number;
      readonly recoveryMs: number;
    }
  | { readonly type: 'joined'; readonly agent: string; readonly slots: number };

/** A job as its records and the leases of its members show it. */
export interface ClusterStatus {
  readonly job: string;
  readonly leader: (LeaderRecord & { readonly ageMs?: number }) | null;
  readonly record: JobRecord | null;
  readonly generation: GenerationRecord | null;
  readonly position: PositionRecord | null;
  readonly members: readonly (MemberRecord & { readonly ageMs: number })[];
}

/** What each agent of a job answered when it was asked what its ranks do. */
export interface DebugReport {
  readonly ranks: readonly (RankState & { readonly agent: string })[];
  /** Agents that did not answer. */
  readonly silent: readonly { readonly agent: string; readonly reason: string }[];
}

/** A line of a process of a job. */
export interface LogLine {
  /** Milliseconds since 1970. */
  readonly at: number;
  /** Process that wrote it: an agent's id, or `coordinator`. */
  readonly from: string;
  readonly line: string;
}

/** What `stopJob` did. */
export interface StopResult {
  /** The run that ends, or null if none was going on. */
  readonly run: string | null;
  /** Agents that were told to end. */
  readonly workers: number;
}

/** The library calls behind the commands, so that tests can put others in their place. */
export interface ClusterCalls {
  runAgent(options: AgentOptions): Promise<void>;
  trainCluster(source: ConfigInput, options: ClusterRunOptions): AsyncIterable<RunEvent | ClusterEvent>;
  resumeCluster(
    run: string,
    change: readonly (string | Override)[] | ConfigInput,
    options: ClusterRunOptions,
  ): AsyncIterable<RunEvent | ClusterEvent>;
  clusterStatus(place: JobPlace): Promise<ClusterStatus>;
  debugJob(place: JobPlace): Promise<DebugReport>;
  stopJob(place: JobPlace, options: { readonly workers: boolean }): Promise<StopResult>;
  tailLogs(
    place: JobPlace,
    options: { readonly follow: boolean; readonly signal: AbortSignal },
  ): AsyncIterable<LogLine>;
}
