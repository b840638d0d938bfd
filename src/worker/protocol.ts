import type { CompressionOptions } from '../comm/index.ts';
import type { PreparedData, SplitName } from '../data/index.ts';
import type { EngineOptions } from '../engine/index.ts';
import type { Program } from '../plan/index.ts';
import type { SnapshotShare } from './snapshot-layout.ts';
import type { ObjectiveSection, TransitionAnswers } from './training-objective.ts';

/** Everything that a worker needs to build its share of a run. Plain data: it crosses threads and, later, hosts. */
export interface WorkerJob {
  readonly runId: string;
  readonly rank: number;
  readonly seed: number;
  /** The resolved `model` section: a zoo name with arguments, or a compiled module file. */
  readonly model: unknown;
  /** The resolved `optim` section. */
  readonly optim: unknown;
  /** The optimizer of averaged changes, where data ranks take local steps (`Program.local`): an `optim` section. */
  readonly outerOptim?: unknown;
  /** What a scheduler changes about the model's loss and the optimizer; absent for nothing. */
  readonly objective?: ObjectiveSection;
  /** Steps of the whole run (`train.steps`), on which learning-rate schedules depend. */
  readonly totalSteps: number;
  readonly data: PreparedData;
  readonly engine: EngineOptions;
  readonly batch: { readonly global: number; readonly micro: number };
  readonly numerics: 'exact' | 'fast';
  readonly remat: 'none' | 'full' | Readonly<Record<string, 'none' | 'full'>>;
  readonly train: Program;
  readonly evaluate: Program;
  /** Codecs of what ranks send each other; absent for none. */
  readonly compression?: CompressionOptions;
  /** Deadline of every communication wait, in milliseconds. */
  readonly deadlineMs: number;
  /** Folder of the checkpoint to start from, or null to initialise from the seed. */
  readonly checkpoint: string | null;
  /** Record a Chrome trace of each instruction. */
  readonly trace: boolean;
  /**
   * Where the worker leaves what it is doing, readable even while its thread is blocked: an Int32Array of
   * `PROGRESS_FIELDS`, stored with `Atomics.store` before each instruction. Memory made by `createProgress` has room for
   * the last instructions and waits too (`readFlight`).
   */
  readonly progress?: SharedArrayBuffer;
}

/**
 * Fields of `WorkerJob.progress`, by index: the step (or the evaluation round), 0 for the train program and 1 for the
 * evaluate program, the index of the instruction in that program (-1 between steps), and a count of instructions begun.
 * The last one goes the other way: the coordinator sets `abort` to 1 to make the worker give up at the next instruction.
 * (A thread must not be ended by force while the engine's native code runs in it: that would abort the whole process.)
 */
export const PROGRESS_FIELDS = ['step', 'mode', 'instruction', 'count', 'abort'] as const;

/** What an evaluation of some examples looks at. */
export interface ChosenExamples {
  /** Of the split, in this order. */
  readonly examples: Int32Array;
  /** Names of the metrics that are wanted. */
  readonly metrics: readonly string[];
  /** Examples of a microbatch. */
  readonly micro: number;
}

/** What the coordinator asks of a worker. Commands are served between steps, in order. */
export type WorkerCommand =
  /** Permission to run steps up to `until` (exclusive). Sent ahead so that workers do not wait for the coordinator. */
  | { readonly type: 'run'; readonly until: number }
  | {
      readonly type: 'evaluate';
      readonly id: number;
      readonly split: SplitName;
      readonly maxMicrobatches: number | null;
      /** Absent for the split's first examples, all metrics, and the microbatch of training. */
      readonly chosen?: ChosenExamples;
    }
  /** Change parameters and slots by one of the objective's transitions. */
  | { readonly type: 'transition'; readonly id: number; readonly name: string; readonly args: unknown }
  /** Copy all that lasts from step to step, as it is at the present position. */
  | { readonly type: 'snapshot'; readonly id: number }
  | { readonly type: 'stop' };

/** A value reported for each global microbatch that this rank computed, so that the reader can finish the tree. */
export type LeafValues = readonly (readonly [microbatch: number, value: number | readonly number[]])[];

/** What one rank saw of a step. */
export interface StepReport {
  readonly step: number;
  readonly metrics: Readonly<Record<string, LeafValues>>;
  /** Global gradient norm before clipping; every rank computes the same bits. */
  readonly gradNorm: number;
  readonly lr: number;
  readonly stepMs: number;
  /** Time spent waiting for or moving tensors. */
  readonly commMs: number;
  /** Bytes of tensors that this rank sent to others, and bytes that codecs spared. */
  readonly commBytes: number;
  readonly commBytesSaved: number;
  /** Something that whoever watches the run should know: told once. */
  readonly note?: string;
}

/** One shard file of a checkpoint and the tensors in it. */
export interface ShardReport {
  readonly file: string;
  readonly sha256: string;
  readonly tensors: readonly string[];
}

/** Where and why a worker failed: what the cause block shows. */
export interface FailureReport {
  readonly rank: number;
  /** Absolute module path, where known. */
  readonly path: string | null;
  /** The instruction being executed, printed as in `plexus plan`. */
  readonly instruction: string | null;
  readonly microbatch: number | null;
  readonly step: number | null;
  readonly name: string;
  readonly message: string;
  readonly stack: string;
  /** True if this worker failed only because a peer went away: such reports never are the cause. */
  readonly secondary: boolean;
}

/** What a rank did before it was ready, one after another, in milliseconds. */
export interface StartPhases {
  /** The thread came free of the rank before, and the job was made one of this machine. */
  readonly start: number;
  /** Layers and optimizer, as far as they were not compiled before. */
  readonly compile: number;
  /** Waiting for tensors, and putting them in place. */
  readonly restore: number;
}

/** What a worker tells the coordinator. */
export type WorkerEvent =
  /** Of a thread that was started before there was a job for it: it has loaded its modules. */
  | { readonly type: 'loaded' }
  | {
      readonly type: 'ready';
      readonly engineVersion: string;
      /** What this start compiled: not what its thread has from a generation before. */
      readonly compile: { readonly executables: number; readonly cacheHits: number; readonly totalMs: number };
      /** Bytes of parameters, optimizer state held: only what the placement gives this rank. */
      readonly paramBytes: number;
      readonly optimizerBytes: number;
      /** Parameter paths held. */
      readonly params: readonly string[];
      /** Step to continue from (0 or the checkpoint's). */
      readonly step: number;
      readonly phases: StartPhases;
    }
  | { readonly type: 'step'; readonly report: StepReport }
  /** Several short ones at once (`ServeOptions.gathersSteps`), in order. */
  | { readonly type: 'steps'; readonly reports: readonly StepReport[] }
  | { readonly type: 'evaluated'; readonly id: number; readonly metrics: Readonly<Record<string, LeafValues>> }
  | { readonly type: 'changed'; readonly id: number; readonly answers: TransitionAnswers }
  | {
      readonly type: 'snapshotted';
      /** The command's; null for one that was taken by itself after a step (`ServeOptions.snapshotEvery`). */
      readonly id: number | null;
      /** Completed steps of the copy; null if no memory was free, because all copies are being read. */
      readonly step: number | null;
      /** Where the copies are; null if it was told before. */
      readonly share: SnapshotShare | null;
      /** Of a copy that was asked for, digests of parameters and state by name; null if no other rank holds any of it. */
      readonly digests: Readonly<Record<string, string>> | null;
    }
  | { readonly type: 'failed'; readonly report: FailureReport }
  | { readonly type: 'stopped'; readonly trace: unknown };
