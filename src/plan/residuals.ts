import type { Graph, GraphNode, ValueId } from '../engine/index.ts';
import { bytesPerElement, sizeOf } from '../tensor/index.ts';

/** The nodes of a traced function and its gradient, by what they are for. Dead ones are in none. */
export interface SplitNodes {
  readonly forward: readonly GraphNode[];
  /** Backward nodes that the gradients of the inputs need. */
  readonly backwardInput: readonly GraphNode[];
  /** Backward nodes that only the gradients of parameters need. */
  readonly backwardWeight: readonly GraphNode[];
}

/** The values that a traced gradient is wanted for. */
export interface WantedValues {
  readonly outputs: readonly ValueId[];
  readonly inputGradients: readonly (ValueId | null)[];
  readonly paramGradients: readonly (ValueId | null)[];
}

/**
 * Tells forward nodes, nodes of the input gradients and nodes of the parameter gradients apart. The backward of an expert
 * call belongs to the input gradients: other ranks wait for it.
 */
export function splitByUse(graph: Graph, wanted: WantedValues): SplitNodes {
  const forOutputs = ancestors(graph, wanted.outputs);
  const expertGradients = graph.nodes
    .filter(({ kernel }) => kernel === 'PlexusExpertsGrad')
    .flatMap(({ outputs }) => outputs);
  const forInputs = ancestors(graph, [...wanted.inputGradients.filter((id) => id !== null), ...expertGradients]);
  const forParams = ancestors(
    graph,
    wanted.paramGradients.filter((id) => id !== null),
  );
  const forward: GraphNode[] = [];
  const backwardInput: GraphNode[] = [];
  const backwardWeight: GraphNode[] = [];
  for (const node of graph.nodes) {
    const needed = (by: ReadonlySet<ValueId>) => node.outputs.some((id) => by.has(id));
    if (!node.backward) {
      if (needed(forOutputs)) forward.push(node);
    } else if (needed(forInputs)) backwardInput.push(node);
    else if (needed(forParams)) backwardWeight.push(node);
  }
  return { forward, backwardInput, backwardWeight };
}

/** Kernels whose results are kept rather than computed again in the backward. */
const KEPT = /MatMul|Conv|Softmax|CrossEntropy|TopK|Pool|PlexusExperts|PlexusUniform|Cumsum|Segment|Scatter|Resize/;

/**
 * Estimate of the bytes kept from forward to backward: what the backward reads of the forward, where cheap nodes
 * (element-wise, layout, reductions) are computed again from their own inputs.
 * @param activations inputs of the function that are kept; parameters, state and keys are there anyway
 */
export function residualBytesOf(graph: Graph, parts: SplitNodes, activations: ReadonlySet<ValueId>): number {
  const producers = new Map<ValueId, GraphNode>();
  for (const node of graph.nodes) if (!node.backward) for (const id of node.outputs) producers.set(id, node);
  const seen = new Set<ValueId>();
  const stack: ValueId[] = [...parts.backwardInput, ...parts.backwardWeight].flatMap((node) => node.inputs);
  let bytes = 0;
  for (let id = stack.pop(); id !== undefined; id = stack.pop()) {
    if (seen.has(id)) continue;
    seen.add(id);
    const producer = producers.get(id);
    const value = graph.values.get(id);
    if (producer && !KEPT.test(producer.kernel)) stack.push(...producer.inputs);
    else if (value && (producer || activations.has(id))) bytes += sizeOf(value.shape) * bytesPerElement(value.dtype);
  }
  return bytes;
}

function ancestors(graph: Graph, of: readonly ValueId[]): Set<ValueId> {
  const found = new Set<ValueId>(of);
  for (let i = graph.nodes.length - 1; i >= 0; i--) {
    const node = graph.nodes[i] as GraphNode;
    if (node.outputs.some((id) => found.has(id))) for (const id of node.inputs) found.add(id);
  }
  return found;
}
