import type { SplitName } from '../data/index.ts';
import type { MeshShape } from '../plan/index.ts';
import type { GenerationRecord } from '../worker/index.ts';
import type { RunFailure } from './failure.ts';
import type { Metrics } from './metrics.ts';
import type { RunSummary } from './run/index.ts';
import type { Stretch } from './stretch.ts';

/** What the workers said when they were ready. */
export interface WorkerStart {
  readonly rank: number;
  /** Bytes of the parameters and of the optimizer state that this rank holds. */
  readonly paramBytes: number;
  readonly optimizerBytes: number;
  readonly executables: number;
  readonly cacheHits: number;
  /** Milliseconds spent tracing, lowering and making sessions. */
  readonly compileMs: number;
}

/** What is known of a federated run when it begins. */
export interface FederatedStart {
  /** What a step is. */
  readonly steps: 'rounds' | 'versions';
  /** Registered clients, and those that train at a time. */
  readonly clients: number;
  readonly width: number;
  /** Simulated time before this start, of a run that goes on; null where clients are not simulated. */
  readonly simulatedSeconds: number | null;
  /** Path of a picture of who has which data; null where clients are elsewhere and say nothing of theirs. */
  readonly picture: string | null;
}

/** All workers are ready; the first step follows. */
export interface StartedEvent {
  readonly type: 'started';
  readonly runId: string;
  /** Absolute path of the run folder. */
  readonly dir: string;
  readonly mesh: MeshShape;
  readonly world: number;
  /** Engine threads of each worker. */
  readonly threads: number;
  readonly engine: string;
  /** Parameters of the model, in elements. */
  readonly parameters: number;
  readonly microbatches: number;
  /** Completed steps to continue from; 0 for a new run. */
  readonly step: number;
  /** Steps of the whole run. */
  readonly steps: number;
  readonly unit: 'tokens' | 'examples';
  readonly baselines: Readonly<Record<string, number>>;
  readonly workers: readonly WorkerStart[];
  /** Where clients are trained in place of ranks. */
  readonly federated?: FederatedStart;
  /** Milliseconds from the call to here. */
  readonly startMs: number;
}

/** One optimizer step is complete. */
export interface StepEvent {
  readonly type: 'step';
  /** Completed steps, this one included. */
  readonly step: number;
  /** Mean over the global batch, float32. */
  readonly loss: number;
  /** Global gradient norm before clipping. */
  readonly gradNorm: number;
  readonly lr: number;
  /** Tokens (or examples) a second, from the end of the step before to the end of this one. */
  readonly perSecond: number;
  /** Longest of the ranks. */
  readonly stepMs: number;
  /** Longest of the ranks: waiting for and moving tensors. */
  readonly commMs: number;
  /** Sums over the ranks: bytes of tensors sent to other ranks, and bytes that codecs spared. Absent without ranks. */
  readonly commBytes?: number;
  readonly commBytesSaved?: number;
  /** Everything that modules report, `loss` included. */
  readonly metrics: Metrics;
  /** What the step is part of; absent where all are alike. */
  readonly stretch?: Stretch;
}

/** How far a round is: clients that are done with it, of those that it waits for. */
export interface Underway {
  readonly done: number;
  readonly of: number;
}

/** A round takes long; comes every two seconds till it is over. */
export interface UnderwayEvent extends Underway {
  readonly type: 'underway';
  /** Completed rounds. */
  readonly step: number;
}

/** An evaluation is complete. */
export interface EvaluatedEvent {
  readonly type: 'evaluated';
  /** Completed steps. */
  readonly step: number;
  readonly split: SplitName;
  readonly microbatches: number;
  readonly loss: number;
  readonly metrics: Metrics;
  readonly ms: number;
}

/** What a task of a sequence has cost, and what is kept after it. */
export interface TaskCost {
  /** Steps, and those of them that only look at gradients. */
  readonly steps: number;
  readonly observed_steps: number;
  /** Examples of these steps that counted, and those that were predicted besides. */
  readonly examples: number;
  readonly predicted_examples: number;
  /** Floating-point operations of their forward and backward. */
  readonly training_flops: number;
  /** Seconds, without evaluations, over interruptions. */
  readonly wall_s: number;
  /** Bytes that are needed to go on. */
  readonly memory: {
    readonly parameters: number;
    /** What is kept for each parameter besides: importance, masks. Without the optimizer's own. */
    readonly slots: number;
    /** Examples in buffers. */
    readonly examples: number;
    /** Other tensors: outputs for kept examples, prototypes, samples. */
    readonly tensors: number;
    readonly total: number;
  };
}

/** A task of a sequence has been learnt, and all tasks have been looked at. */
export interface TaskEvent {
  readonly type: 'task';
  /** Completed steps. */
  readonly step: number;
  /** The task that has been learnt, from 1, and how many there are. */
  readonly task: number;
  readonly tasks: number;
  /** Share of right answers on each task, those to come included. */
  readonly accuracies: readonly number[];
  /** Mean loss of a token on each task, where the data is text. */
  readonly losses?: readonly number[];
  /** Mean over the tasks that have been learnt. */
  readonly average: number;
  /** Absent where tasks are learnt by clients, each of which has costs of its own. */
  readonly cost?: TaskCost;
  /** Milliseconds from the task's last step. */
  readonly ms: number;
}

/** A checkpoint is safe on disk. */
export interface CheckpointedEvent {
  readonly type: 'checkpointed';
  readonly step: number;
  readonly path: string;
  readonly bytes: number;
  /** Milliseconds from when it was asked for until it was safe; training went on meanwhile. */
  readonly ms: number;
  /** Milliseconds that training waited for it: for the copy, and for the checkpoint before if that was not done yet. */
  readonly waitMs: number;
}

/**
 * Where the time of a recovery went, in milliseconds, one phase after another. Of what ranks do at the same time, it is the
 * one that was ready last.
 */
export interface RecoveryPhases {
  /** Until enough workers were there. */
  readonly wait: number;
  /** Agents gave up the generation before and opened addresses. */
  readonly prepare: number;
  /** Links, sources of tensors, who keeps copies; the generation's record. */
  readonly plan: number;
  /** Agents got their ranks. */
  readonly assign: number;
  /** The rank's thread came free, and its job was made one of its machine. */
  readonly start: number;
  /** Layers and optimizer, as far as the thread had not compiled them before. */
  readonly compile: number;
  /** Waiting for tensors that were lost here, and putting all in place. */
  readonly restore: number;
  /** Messages on the way. */
  readonly ready: number;
  /** The first step, links between ranks included. */
  readonly step: number;
}

/** What happens in a run on agents besides what happens in any run. */
export type ClusterEvent =
  /** Workers (slots of agents) that are there, and that must be. */
  | { readonly type: 'waiting'; readonly have: number; readonly need: number; readonly what?: 'clients' }
  /** A federated client (its name) has come with data of its own, is gone, or is not asked any more. */
  | {
      readonly type: 'client';
      readonly client: string;
      readonly what: 'joined' | 'gone' | 'quarantined';
      readonly reason: string;
    }
  /** A generation begins; members by rank, links by rank and rank. `fromStep`: completed steps. */
  | ({ readonly type: 'generation' } & GenerationRecord)
  /** An agent is gone, and with it these ranks. `detectedMs`: since its last sign of life, or the first sign of trouble. */
  | {
      readonly type: 'lost';
      readonly agent: string;
      readonly ranks: readonly number[];
      readonly reason: string;
      readonly detectedMs: number;
    }
  /**
   * The first step after a loss is complete. `detectionMs`: from the last sign of life to the decision; `recoveryMs`: from
   * there to that step.
   */
  | {
      readonly type: 'recovered';
      readonly generation: number;
      readonly step: number;
      readonly detectionMs: number;
      readonly recoveryMs: number;
      readonly phases: RecoveryPhases;
    }
  | { readonly type: 'joined'; readonly agent: string; readonly slots: number };

/** What happens in a run, in order. The last one is `finished` or `failed`. */
export type RunEvent =
  | ClusterEvent
  /** Something that takes a moment before the workers start. */
  | { readonly type: 'preparing'; readonly what: 'data' | 'model' | 'plan' | 'workers' }
  | StartedEvent
  | StepEvent
  | UnderwayEvent
  | EvaluatedEvent
  | TaskEvent
  | CheckpointedEvent
  | { readonly type: 'warning'; readonly message: string }
  /** Text that the model wrote when training had ended. */
  | { readonly type: 'sampled'; readonly prompt: string; readonly text: string }
  /** `summary` is null where the run was interrupted; it can be resumed from `checkpoint`. */
  | {
      readonly type: 'finished';
      readonly status: 'completed' | 'interrupted';
      readonly runId: string;
      readonly dir: string;
      readonly step: number;
      readonly summary: RunSummary | null;
      readonly checkpoint: string | null;
    }
  | { readonly type: 'failed'; readonly failure: RunFailure };
