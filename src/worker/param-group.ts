import type { LeafRange } from '../comm/index.ts';
import type { DeviceTensor } from '../engine/index.ts';
import type { Named, ParamSpec, StateSpec } from '../modules/index.ts';
import type { HostTensor } from '../tensor/index.ts';
import type { GradientSum } from './gradient-sum.ts';
import type { Cell } from './tensor-space.ts';

/** A parameter with its optimizer state, as held by a rank. */
export interface HeldParam extends Named<ParamSpec> {
  tensor: DeviceTensor;
  /** Names of the optimizer's slots, and their tensors in the same order. */
  readonly slotNames: readonly string[];
  slots: DeviceTensor[];
  /**
   * Where each replica of the parameter keeps the optimizer state, this is absent. Where the state is sharded over the
   * replicas: true on the one that keeps it, false on the others, whose `slots` are empty.
   */
  readonly keepsSlots?: boolean;
  /** What top-k compression has left out of this rank's gradients so far; absent without it. Zero at first. */
  residual?: DeviceTensor;
  /** With local steps: the value that all replicas began this round with, and the outer optimizer's state. */
  readonly outer?: { anchor: DeviceTensor; readonly slotNames: readonly string[]; slots: DeviceTensor[] };
}

/** A state tensor as held by a rank. */
export interface HeldState extends Named<StateSpec> {
  tensor: DeviceTensor;
  /** With local steps: the value that all replicas began this round with. */
  readonly outer?: { anchor: DeviceTensor };
}

/**
 * Who owns what of a group where optimizer state is sharded over its replicas: indices of members of the group of ranks
 * over which it is reduced. The owner of a parameter gets the sum of its gradients, keeps its slots and updates it for all.
 */
export interface GroupShards {
  /** This rank. */
  readonly member: number;
  /** Owner of each parameter. */
  readonly params: readonly number[];
  /** Owner of the state, all of it. */
  readonly state: number;
}

/** Which expert a group of parameters belongs to. */
export interface ExpertPlace {
  /** Path of the calling module. */
  readonly path: string;
  readonly index: number;
}

/**
 * Parameters (and state) that are used, summed up, reduced and updated together: those of one layer, or of one expert.
 */
export interface ParamGroup {
  /** The layer's name or the expert's path. */
  readonly name: string;
  /** Index of the layer in the model's sequence. */
  readonly layer: number;
  readonly expert: ExpertPlace | null;
  readonly params: readonly HeldParam[];
  readonly state: readonly HeldState[];
  /** Null where each replica updates everything. */
  readonly shards: GroupShards | null;
  /** Leaves of the canonical tree that this rank computes for the group. */
  readonly leaves: LeafRange;
  /**
   * Indices of the parameters that get a gradient, and of the states that get a contribution: the order of the tensors
   * in `gradients`. Set when the layer is compiled.
   */
  gradientOf: readonly number[];
  contributionOf: readonly number[];
  readonly gradients: GradientSum;
  /** The finished sums of this step; null before that. */
  reduced: readonly (Cell | null)[] | null;
  /** With local steps: mean changes of parameters and state over the replicas, at the end of a round. */
  changes?: readonly HostTensor[] | null;
}

/** Indices of the parameters that this rank updates. */
export function updatedHere({ params, shards }: ParamGroup): number[] {
  return params.flatMap((_, i) => (shards && shards.params[i] !== shards.member ? [] : [i]));
}

/** Owners of the tensors that a group sums up, in the order of `summedSizes`; all the same where nothing is sharded. */
export function summedOwners({ gradientOf, contributionOf, shards }: ParamGroup): number[] {
  return [...gradientOf.map((i) => shards?.params[i] ?? 0), ...contributionOf.map(() => shards?.state ?? 0)];
}

/** Elements of each tensor that a group sums up. */
export function summedSizes(group: ParamGroup): number[] {
  const size = (shape: readonly number[]) => shape.reduce((product, dim) => product * dim, 1);
  return [
    ...group.gradientOf.map((i) => size(group.params[i]?.spec.shape ?? [])),
    ...group.contributionOf.map((i) => size(group.state[i]?.spec.shape ?? [])),
  ];
}
