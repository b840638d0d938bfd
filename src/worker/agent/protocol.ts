import type { LinkAddress, LinkKind } from '../../comm/index.ts';
import type { DataConfig } from '../../data/index.ts';
import type { EngineOptions } from '../../engine/index.ts';
import type { MeshShape, Program } from '../../plan/index.ts';
import type { WorkerCommand, WorkerEvent, WorkerJob } from '../protocol.ts';

/**
 * What a coordinator and the agents of a job say to each other over NATS, encoded with msgpackr. An *agent* is one
 * `plexus worker` process; each of its *slots* can run one rank in a thread of its own. A *generation* is the time between
 * two changes of who takes part: everything that is said carries its number, and what is of an older one is dropped.
 */
export const CLUSTER_PROTOCOL_VERSION = 1;

/** Subjects of a job. Tensors of the `nats` transport use `plexus.<job>.<from>.<to>`, ranks being numbers. */
export const clusterSubjects = (job: string) => ({
  /** Requests to one agent: `AgentRequest` → `AgentReply`. */
  agent: (id: string) => `plexus.${job}.agent.${id}`,
  /** Events of agents for whoever leads: `AgentEvent` → `{ ok: true }`, sent again until it is answered. */
  events: `plexus.${job}.events`,
  /** Lines of logs of all processes, for `plexus logs`; nobody has to listen. */
  logs: `plexus.${job}.logs`,
  /** Notices between agents, each answered when it is done with: `ReplicaOffer` → `{ ok }`. */
  replicas: (id: string) => `plexus.${job}.replicas.${id}`,
  /** Ranges of the blobs that one process offers (`comm/blob.ts`). */
  blobs: (id: string) => `plexus.${job}.blobs.${id}`,
});

/** The JetStream KV bucket of a job, and the keys in it. Values are JSON. */
export const clusterKeys = {
  bucket: (job: string) => `plexus-${job}`,
  /** `LeaderRecord`; taken and renewed by compare-and-set on its revision. */
  leader: 'leader',
  /** `JobRecord`. */
  job: 'job',
  /** `GenerationRecord`. */
  generation: 'generation',
  /** `PositionRecord`. */
  position: 'position',
  /** `MemberRecord`; put again every quarter of a lease. The time that counts is the watcher's own, at arrival. */
  member: (id: string) => `members.${id}`,
} as const;

/** Who leads the job. */
export interface LeaderRecord {
  readonly id: string;
  readonly term: number;
  readonly host: string;
  readonly pid: number;
  readonly leaseMs: number;
}

/** The job that is being run: enough for a coordinator on the same disk, or with a shared one, to take over. */
export interface JobRecord {
  readonly job: string;
  readonly runId: string;
  readonly runDir: string;
  readonly version: string;
  /** The resolved config as YAML. */
  readonly config: string;
  readonly status: 'waiting' | 'running' | 'completed' | 'interrupted' | 'failed';
  readonly minWorkers: number;
  readonly maxWorkers: number;
}

/** Who takes part. */
export interface GenerationRecord {
  readonly generation: number;
  readonly mesh: MeshShape;
  /** By rank. */
  readonly members: readonly { readonly agent: string; readonly slot: number }[];
  /** By rank, then rank: how the two are linked; `-` for oneself. */
  readonly links: readonly (readonly (LinkKind | '-')[])[];
  /** Completed steps from which it went on. */
  readonly fromStep: number;
  readonly reason: string;
}

/** How far the run is: completed steps that are in metrics.jsonl. */
export interface PositionRecord {
  readonly step: number;
  readonly steps: number;
  readonly loss: number | null;
  readonly checkpoint: number | null;
  readonly generation: number;
}

/** An agent that is there. */
export interface MemberRecord {
  readonly id: string;
  /** Changes when the process is started anew. */
  readonly life: string;
  readonly version: string;
  readonly protocol: number;
  readonly host: string;
  /** Equal for processes that can share memory and unix sockets: boot id and IPC and mount namespaces. */
  readonly hostId: string;
  readonly pid: number;
  readonly runtime: string;
  /** See `processorKind`. */
  readonly processor: string;
  readonly device: string;
  readonly slots: number;
  readonly leaseMs: number;
  /** The generation it takes part in, and with which ranks; null while it is spare. */
  readonly generation: number | null;
  readonly ranks: readonly number[];
  /** Counted up with each put, so that a put that changes nothing is still seen. */
  readonly beat: number;
}

/** A rank's job without what cannot cross hosts: each agent prepares the data on its own disk and compares digests. */
export interface RemoteJob extends Omit<WorkerJob, 'data' | 'engine' | 'checkpoint' | 'progress'> {
  readonly data: DataConfig;
  /** The saved tokenizer as JSON text, where the data has one; otherwise null. */
  readonly tokenizer: string | null;
  /** SHA-256 of the prepared data (`preparedDigest`): an agent whose own differs refuses, with both named. */
  readonly dataSha256: string;
  /** `modelDigest(model)`: of the sources of a module file; null for a model of the zoo. Compared like the data's. */
  readonly modelSha256: string | null;
  /** An agent's own `--device` takes the place of `device`. */
  readonly engine: EngineOptions;
  readonly train: Program;
  readonly evaluate: Program;
}

/** Where the links of one slot can be reached. */
export interface SlotAddresses extends LinkAddress {
  readonly slot: number;
}

/** A copy of a rank's tensors after `step` completed steps, in the memory of an agent. */
export interface SnapshotInfo {
  readonly generation: number;
  readonly rank: number;
  /** Completed steps. */
  readonly step: number;
  /** Name (as in checkpoints: `param/…`, `state/…`, `optim/<slot>/…`), shape, first byte in the blob. All float32. */
  readonly tensors: readonly { readonly name: string; readonly shape: readonly number[]; readonly offset: number }[];
  readonly bytes: number;
  /** Blob that offers it. */
  readonly blob: string;
}

/** Where a rank finds a tensor that it needs to begin. */
export interface TensorSource {
  readonly name: string;
  readonly shape: readonly number[];
  /** Process that offers the blob: an agent's id, or `coordinator`. */
  readonly owner: string;
  readonly blob: string;
  readonly offset: number;
}

/** Requests of the coordinator to one agent. Each is answered once; a repeated one gets the same answer. */
export type AgentRequest = { readonly term: number; readonly generation: number; readonly seq: number } & (
  | {
      /** Give up the generation before, keep the snapshots, open addresses for the slots of the next one. */
      readonly type: 'prepare';
      /** The coordinator's: an agent of another version refuses, with both named. */
      readonly version: string;
      /** The coordinator's `CLUSTER_PROTOCOL_VERSION`. */
      readonly protocol: number;
      readonly slots: readonly number[];
      /** The rank that each of these slots is going to run. */
      readonly ranks: readonly number[];
      readonly secret: string;
      readonly world: number;
    }
  | {
      /** Can these be reached? Connects and hangs up. */
      readonly type: 'probe';
      readonly addresses: readonly { readonly host: string; readonly port: number }[];
    }
  | {
      /**
       * Begin. Accepted at once; what goes wrong from here on (other data, a module file that is not there, a link that
       * cannot be made) is told by a `worker` event `failed` of the rank.
       */
      readonly type: 'assign';
      readonly ranks: readonly {
        readonly slot: number;
        readonly job: RemoteJob;
        /** By peer rank. */
        readonly links: readonly (LinkKind | '-')[];
        /** Where its tensors come from; null begins from the seed. */
        readonly restore: { readonly step: number; readonly sources: readonly TensorSource[] } | null;
        /** Snapshots of these tensors are copied to another agent, since no other rank holds them. */
        readonly replicate: { readonly to: string; readonly names: readonly string[] } | null;
      }[];
      /** By rank. */
      readonly addresses: readonly SlotAddresses[];
      /** By rank. */
      readonly members: readonly { readonly agent: string; readonly slot: number }[];
      readonly snapshotEvery: number;
    }
  /**
   * Slots without a rank compile what these ranks would need, so that a spare takes over sooner. Accepted at once; nothing
   * comes of it if something is wrong. One rank of each stage will do.
   */
  | { readonly type: 'warm'; readonly jobs: readonly RemoteJob[] }
  /** Copy this snapshot of another agent and keep it until newer ones have come. */
  | { readonly type: 'replicate'; readonly owner: string; readonly snapshot: SnapshotInfo }
  | { readonly type: 'command'; readonly rank: number; readonly command: WorkerCommand | SnapshotCommand }
  /** The job is over, or this agent is not needed: drop everything, be spare. */
  | { readonly type: 'release'; readonly reason: string }
  | { readonly type: 'debug' }
  /** End the process. */
  | { readonly type: 'stop'; readonly reason: string }
);

/** Asks for a snapshot of the present position, for a checkpoint: the coordinator fetches the blob and then frees it. */
export type SnapshotCommand =
  | { readonly type: 'snapshot'; readonly id: number }
  | { readonly type: 'free'; readonly blob: string };

export type AgentReply =
  | {
      readonly ok: true;
      readonly type: 'prepared';
      readonly addresses: readonly SlotAddresses[];
      readonly snapshots: readonly SnapshotInfo[];
    }
  | { readonly ok: true; readonly type: 'probed'; readonly reachable: readonly boolean[] }
  | { readonly ok: true; readonly type: 'accepted' }
  | { readonly ok: true; readonly type: 'debug'; readonly ranks: readonly RankState[] }
  /** Nothing was done. `stale`: the request is of an older term or generation. */
  | { readonly ok: false; readonly stale: boolean; readonly message: string };

/**
 * What an agent tells another, which is to keep a copy of the snapshot's tensors: the snapshot stays as it is until this
 * is answered or a deadline passes. One at a time for each rank; what is newer then comes next, what lies between never.
 */
export interface ReplicaOffer {
  readonly owner: string;
  readonly generation: number;
  readonly snapshot: SnapshotInfo;
}

/** What a rank is doing and did last: the flight recorder. */
export interface RankState {
  readonly rank: number;
  readonly generation: number;
  readonly step: number;
  readonly doing: string;
  readonly sinceMs: number;
  readonly waits: readonly { readonly from: number; readonly tag: string; readonly sinceMs: number }[];
  /** Oldest first; `ms` before now at which each began. */
  readonly recent: readonly { readonly instruction: string; readonly step: number; readonly ms: number }[];
}

/** What an agent tells whoever leads. `seq` counts per agent life; the same one may come twice. */
export type AgentEvent = {
  readonly agent: string;
  readonly life: string;
  readonly generation: number;
  readonly seq: number;
} & (
  | { readonly type: 'worker'; readonly rank: number; readonly event: WorkerEvent }
  | {
      readonly type: 'snapshot';
      readonly rank: number;
      readonly id: number;
      readonly snapshot: SnapshotInfo;
      /** As in `WorkerEvent`. */
      readonly digests: Readonly<Record<string, string>> | null;
    }
  /** Copies of others' tensors that are here from now on: told once for each rank and generation, kept up to date since. */
  | { readonly type: 'snapshots'; readonly snapshots: readonly SnapshotInfo[] }
  /** A link of a rank ended: who is suspected, before any lease has run out. */
  | { readonly type: 'link-lost'; readonly rank: number; readonly peer: number; readonly reason: string }
  /** The agent leaves in good order (Ctrl-C, spot warning): its ranks finish the step, then a new generation begins. */
  | { readonly type: 'leaving'; readonly reason: string }
);
