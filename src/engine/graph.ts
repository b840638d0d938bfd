import type { Shape } from '../tensor/index.ts';

/** Dtypes a traced value can have: what tfjs computes with. */
export type GraphDType = 'float32' | 'int32' | 'bool';

/** Index of a value in a graph; every value is produced once (static single assignment). */
export type ValueId = number;

/** Shape and dtype of a value of a graph. */
export interface GraphValue {
  readonly id: ValueId;
  readonly dtype: GraphDType;
  readonly shape: Shape;
}

/** Attribute values are what tfjs kernels take: numbers, strings, booleans, and (nested) lists of them. */
export type Attr = number | string | boolean | null | readonly Attr[] | { readonly [key: string]: Attr };

/**
 * One operation. `kernel` is a tfjs kernel name (`BatchMatMul`, `Add`, ...) or one of Plexus' own, which begin with
 * `Plexus` (fused patterns, random numbers, the expert boundary).
 */
export interface GraphNode {
  readonly kernel: string;
  readonly inputs: readonly ValueId[];
  readonly outputs: readonly ValueId[];
  readonly attrs: { readonly [key: string]: Attr };
  /** Path of the module whose forward recorded the node, for error messages, profiles and `remat` by path. */
  readonly path: string;
  /** Set on nodes that the gradient recorded rather than the forward. */
  readonly backward: boolean;
}

/** A constant of the graph. Data is held by reference, never copied. */
export interface GraphConstant {
  readonly id: ValueId;
  readonly data: Float32Array | Int32Array | Uint8Array;
}

/**
 * A traced function: a directed acyclic graph in topological order. Passes take a graph and return a new one; value
 * ids stay what they were, so a pass can be checked against the graph it was given.
 */
export interface Graph {
  readonly values: ReadonlyMap<ValueId, GraphValue>;
  readonly inputs: readonly ValueId[];
  readonly constants: readonly GraphConstant[];
  readonly nodes: readonly GraphNode[];
  readonly outputs: readonly ValueId[];
}
