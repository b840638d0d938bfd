import type { Signature } from '../engine.ts';
import type { Attr, GraphNode } from '../graph.ts';

/** Attributes of a node. */
export type Attrs = Readonly<Record<string, Attr>>;

/** What tracing a kernel call makes: the outputs' signatures, and the attributes in their canonical form. */
export interface Inferred {
  readonly outputs: readonly Signature[];
  /** Replaces the attributes that tfjs passed: axes are non-negative lists, paddings explicit, defaults filled in. */
  readonly attrs?: Attrs;
}

/** A kernel that may stand in a graph. */
export interface KernelDefinition {
  readonly kernel: string;
  /** Names of the tfjs kernel's inputs in the order of `GraphNode.inputs`, or `list` where tfjs takes an array. */
  readonly inputs: readonly string[] | 'list';
  readonly infer: (inputs: readonly Signature[], attrs: Attrs) => Inferred;
}

const definitions = new Map<string, KernelDefinition>();

/** Adds a kernel to what graphs may contain. */
export function defineKernel(
  kernel: string,
  inputs: KernelDefinition['inputs'],
  infer: KernelDefinition['infer'],
): KernelDefinition {
  const definition = { kernel, inputs, infer };
  definitions.set(kernel, definition);
  return definition;
}

/** The definition of a kernel, or undefined if no graph can contain it. */
export function kernelDefinition(kernel: string): KernelDefinition | undefined {
  return definitions.get(kernel);
}

/** Names of all kernels that graphs may contain: what an engine must be able to lower. */
export function graphKernels(): string[] {
  return [...definitions.keys()].sort();
}

/** Whether a node is where a layer leaves its executables; such nodes have effects, so no pass may drop them. */
export function isBoundary(node: GraphNode): boolean {
  return node.kernel === 'PlexusExperts' || node.kernel === 'PlexusExpertsGrad';
}
