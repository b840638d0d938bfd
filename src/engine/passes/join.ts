import type { Sequence, SequenceValue } from '../engine.ts';
import type { Graph, GraphConstant, GraphNode, GraphValue, ValueId } from '../graph.ts';

/** A graph that is one of several which are run one after another. */
export interface JoinedCall {
  readonly graph: Graph;
  /** For each of its inputs: the place of the value among those there are before it (see `joinGraphs`). */
  readonly inputs: readonly number[];
}

/**
 * One graph that computes what several do one after another. Values are numbered in the order in which they come to be: those that
 * are given (`given` has their dtypes and shapes), then the outputs of each call. Nothing is optimised across the seams, so every
 * kernel runs as it would by itself, and gives the same bits.
 * @param outputs places of the values that are wanted
 */
export function joinGraphs(
  given: readonly Omit<GraphValue, 'id'>[],
  calls: readonly JoinedCall[],
  outputs: readonly number[],
): Graph {
  const values = new Map<ValueId, GraphValue>();
  const constants: GraphConstant[] = [];
  const nodes: GraphNode[] = [];
  const add = ({ dtype, shape }: Omit<GraphValue, 'id'>): ValueId => {
    const id = values.size;
    values.set(id, { id, dtype, shape });
    return id;
  };
  const inputs = given.map(add);
  const places: ValueId[] = [...inputs];
  for (const { graph, inputs: taken } of calls) {
    const ids = new Map<ValueId, ValueId>();
    graph.inputs.forEach((id, i) => {
      ids.set(id, places[taken[i] as number] as ValueId);
    });
    const own = (id: ValueId): ValueId => {
      const found = ids.get(id);
      if (found !== undefined) return found;
      const made = add(graph.values.get(id) as GraphValue);
      ids.set(id, made);
      return made;
    };
    for (const { id, data } of graph.constants) constants.push({ id: own(id), data });
    for (const node of graph.nodes)
      nodes.push({ ...node, inputs: node.inputs.map(own), outputs: node.outputs.map(own) });
    places.push(...graph.outputs.map(own));
  }
  return { values, inputs, constants, nodes, outputs: outputs.map((place) => places[place] as ValueId) };
}

/** One graph of a sequence; `graphs` are those of its calls. */
export function joinSequence({ given, calls, outputs }: Sequence, graphs: readonly Graph[]): Graph {
  let next = given.length;
  const places = graphs.map((graph) => {
    const first = next;
    next += graph.outputs.length;
    return first;
  });
  const placeOf = (value: SequenceValue): number =>
    'given' in value ? value.given : (places[value.call] as number) + value.output;
  return joinGraphs(
    given,
    calls.map(({ inputs }, i) => ({ graph: graphs[i] as Graph, inputs: inputs.map(placeOf) })),
    outputs.map(placeOf),
  );
}
