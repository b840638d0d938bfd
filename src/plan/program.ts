import type { Group } from '../comm/index.ts';
import type { MeshShape } from './mesh.ts';

/** Half-open range of global microbatches. */
export interface MicrobatchRange {
  readonly start: number;
  readonly end: number;
}

/** A piece of a stage between two communication points. */
export interface Segment {
  readonly stage: number;
  /** Position within the stage: 0, 1, ...; odd ones are expert segments when experts are sharded. */
  readonly index: number;
  /** What runs, in order. A `layer` part is one forward phase of a layer (all of them if `phase` is null). */
  readonly parts: readonly SegmentPart[];
}

/** `layer` is the index in the model's sequence. `call` is the n-th expert call of that layer. */
export type SegmentPart =
  | { readonly kind: 'layer'; readonly layer: number; readonly phase: number }
  | { readonly kind: 'experts'; readonly layer: number; readonly call: number };

/** Consecutive layers held by one pipeline rank (one of its chunks, in interleaved schedules). */
export interface Stage {
  /** Virtual stage number along the whole model. */
  readonly index: number;
  /** Position on the pipeline axis of the rank that holds it. */
  readonly pipelineRank: number;
  readonly layers: readonly number[];
  readonly segments: readonly Segment[];
}

/** Where an expert exchange stands: tokens out, results back, and the same for their cotangents. */
export type ExchangeKind = 'dispatch' | 'combine' | 'dispatch-gradient' | 'combine-gradient';

/**
 * What one rank executes in one step, one after another. `microbatch` is always a global microbatch. In an expert
 * segment or exchange it is this rank's own; the peers of the expert group work on theirs of the same round.
 */
export type Instruction =
  | { readonly op: 'LoadBatch'; readonly stage: number; readonly microbatch: number; readonly what: 'inputs' | 'targets' }
  | { readonly op: 'Forward'; readonly stage: number; readonly segment: number; readonly microbatch: number }
  /** Gradient of inputs and parameters together. */
  | { readonly op: 'Backward'; readonly stage: number; readonly segment: number; readonly microbatch: number }
  | { readonly op: 'BackwardInput'; readonly stage: number; readonly segment: number; readonly microbatch: number }
  | { readonly op: 'BackwardWeight'; readonly stage: number; readonly microbatch: number }
  /** Activations go from `stage` to `stage + 1`; gradients from `stage` to `stage - 1`. */
  | { readonly op: 'Send'; readonly what: 'activation' | 'gradient'; readonly stage: number; readonly microbatch: number; readonly to: number; readonly tag: string }
  /** `stage` is the receiving stage. */
  | { readonly op: 'Recv'; readonly what: 'activation' | 'gradient'; readonly stage: number; readonly microbatch: number; readonly from: number; readonly tag: string }
  /** `segment` is the expert segment that the exchange belongs to. */
  | { readonly op: 'AllToAll'; readonly what: ExchangeKind; readonly group: string; readonly stage: number; readonly segment: number; readonly microbatch: number; readonly tag: string }
  /** Finishes the canonical tree of gradients (and state contributions) of a stage over a group. */
  | { readonly op: 'AllReduce'; readonly what: 'dense' | 'experts'; readonly group: string; readonly stage: number; readonly tag: string }
  | { readonly op: 'ReduceScatter'; readonly group: string; readonly stage: number; readonly tag: string }
  /** Squared gradient norms of every parameter, to all ranks that together hold the model. */
  | { readonly op: 'AllGather'; readonly what: 'norms' | 'params'; readonly group: string; readonly tag: string }
  | { readonly op: 'Broadcast'; readonly group: string; readonly root: number; readonly tag: string }
  | { readonly op: 'Optimize'; readonly stages: readonly number[] }
  | { readonly op: 'Barrier'; readonly group: string; readonly tag: string }
  /** Drops what is kept of a microbatch on a stage; implied by Backward, needed after forward-only programs. */
  | { readonly op: 'Free'; readonly stage: number; readonly microbatch: number };

/** The program of one rank. Groups are named; every rank that takes part lists the same ranks. */
export interface Program {
  readonly rank: number;
  readonly mesh: MeshShape;
  /** `train` runs forward, backward and optimizer; `evaluate` forward only. */
  readonly mode: 'train' | 'evaluate';
  /** Global microbatches of a step, over all ranks. */
  readonly microbatches: number;
  /** The contiguous share of them that this rank's data-parallel replica computes. */
  readonly share: MicrobatchRange;
  /** Stages held by this rank, in order. */
  readonly stages: readonly Stage[];
  /** Number of virtual stages of the whole pipeline. */
  readonly totalStages: number;
  readonly groups: Readonly<Record<string, Group>>;
  readonly instructions: readonly Instruction[];
}
