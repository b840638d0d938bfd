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
  /**
   * Position within the stage. A stage has one segment if experts are not sharded (mesh.expert = 1): its parts then
   * include the experts, which run in place. Otherwise it is cut at every expert call, and odd segments are the experts.
   */
  readonly index: number;
  /** What runs, in order, in a forward; a backward runs the mirror image. */
  readonly parts: readonly SegmentPart[];
}

/**
 * `layer` is the index in the model's sequence. A layer with c expert calls has forward phases 0 .. c (`phase`), and
 * expert call `call` stands between phases `call` and `call + 1`. A backward mirrors them: phase q is undone by the
 * (c - q)-th backward phase. In training the model's last layer is fused with its loss: its last forward phase runs
 * together with the backward of that phase, at the Forward instruction, and a Backward instruction only hands out what
 * was computed then.
 */
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

/** Parameters that every data rank has a copy of, or experts. */
export type ReducedKind = 'dense' | 'experts';

/**
 * What one rank executes in one step, one after another. Collectives over a group of one rank are left out. `microbatch`
 * is always a global microbatch. In an expert segment or exchange it is this rank's own; the peers of the expert group
 * work on theirs of the same round.
 */
export type Instruction =
  | {
      readonly op: 'LoadBatch';
      readonly stage: number;
      readonly microbatch: number;
      readonly what: 'inputs' | 'targets';
    }
  | { readonly op: 'Forward'; readonly stage: number; readonly segment: number; readonly microbatch: number }
  /** Gradient of inputs and parameters together. */
  | { readonly op: 'Backward'; readonly stage: number; readonly segment: number; readonly microbatch: number }
  /** Gradient of the inputs only. */
  | { readonly op: 'BackwardInput'; readonly stage: number; readonly segment: number; readonly microbatch: number }
  /** All parameter gradients of the stage (experts held here included) that BackwardInput has put off. */
  | { readonly op: 'BackwardWeight'; readonly stage: number; readonly microbatch: number }
  /**
   * Activations go from `stage` to `stage + 1`; gradients from `stage` to `stage - 1`. The tag names the receiving
   * stage. Where both stages are on this rank there is no Send or Recv: the output of one is the input of the other.
   */
  | {
      readonly op: 'Send';
      readonly what: 'activation' | 'gradient';
      readonly stage: number;
      readonly microbatch: number;
      readonly to: number;
      readonly tag: string;
    }
  /** `stage` is the receiving stage. */
  | {
      readonly op: 'Recv';
      readonly what: 'activation' | 'gradient';
      readonly stage: number;
      readonly microbatch: number;
      readonly from: number;
      readonly tag: string;
    }
  /**
   * `segment` is the expert segment that the exchange belongs to: `dispatch` comes before its Forward and `combine`
   * after; `combine-gradient` before its Backward and `dispatch-gradient` after. The tag names the round (the n-th
   * microbatch of each rank's share), so it is the same for all members.
   */
  | {
      readonly op: 'AllToAll';
      readonly what: ExchangeKind;
      readonly group: string;
      readonly stage: number;
      readonly segment: number;
      readonly microbatch: number;
      readonly tag: string;
    }
  /**
   * Finishes the canonical tree of gradients of some layers of a stage (a bucket) over a group: `dense` over the data
   * ranks (with the state contributions), `experts` over the ranks that hold the same experts. Follows the last backward
   * of the stage; what the others need is sent as soon as the layers' gradients are complete, while earlier layers still
   * compute. `changes` averages over the data ranks what the local steps of a round have changed (see `Program.local`).
   */
  | {
      readonly op: 'AllReduce';
      readonly what: ReducedKind | 'changes';
      readonly group: string;
      readonly stage: number;
      readonly layers: readonly number[];
      readonly tag: string;
    }
  /** The same where optimizer state is sharded: each sum is given to the rank that owns the parameter (`shardOwners`). */
  | {
      readonly op: 'ReduceScatter';
      readonly what: ReducedKind;
      readonly group: string;
      readonly stage: number;
      readonly layers: readonly number[];
      readonly tag: string;
    }
  /**
   * Squared gradient norms of every parameter. Among the ranks that together hold the model once (a dense parameter is
   * contributed by every rank that holds it, always with the same bits); where optimizer state is sharded, first among the
   * data ranks, each of which knows those of what it owns, then along the pipeline.
   */
  | { readonly op: 'AllGather'; readonly what: 'norms'; readonly group: string; readonly tag: string }
  /** Gives every rank the parameters and state that the others have updated: the way back from a ReduceScatter. */
  | {
      readonly op: 'AllGather';
      readonly what: 'params';
      readonly of: ReducedKind;
      readonly group: string;
      readonly stage: number;
      readonly layers: readonly number[];
      readonly tag: string;
    }
  /** `outer`: with the outer optimizer, from the averaged changes. */
  | { readonly op: 'Optimize'; readonly stages: readonly number[]; readonly outer?: true }
  | { readonly op: 'Barrier'; readonly group: string; readonly tag: string }
  /**
   * Drops what is kept of a microbatch on a stage. Implied by the last Backward (or BackwardWeight); the programs that
   * only run forward need it.
   */
  | { readonly op: 'Free'; readonly stage: number; readonly microbatch: number };

/** The program of one rank. Groups are named; every rank that takes part lists the same ranks. */
export interface Program {
  readonly rank: number;
  readonly mesh: MeshShape;
  /** `train` runs forward, backward and optimizer; `evaluate` forward only. */
  readonly mode: 'train' | 'evaluate';
  /** 1 where optimizer state is sharded over the data axis (ZeRO stage 1), else 0. */
  readonly zero: 0 | 1;
  /**
   * Global microbatches of a step, over all ranks. For `evaluate`: of one round; round r evaluates the microbatches
   * `r * microbatches + 0 ..` of a split, so an instruction's `microbatch` is relative to its round.
   */
  readonly microbatches: number;
  /** The contiguous share of them that this rank's data-parallel replica computes. */
  readonly share: MicrobatchRange;
  /** Stages held by this rank, in order. */
  readonly stages: readonly Stage[];
  /** Number of virtual stages of the whole pipeline. */
  readonly totalStages: number;
  readonly groups: Readonly<Record<string, Group>>;
  readonly instructions: readonly Instruction[];
  /**
   * Set where each data rank takes optimizer steps of its own, over its share of the microbatches: the instructions from
   * `from` on, which average the changes, belong to every `every`-th step only.
   */
  readonly local?: { readonly every: number; readonly from: number };
}
