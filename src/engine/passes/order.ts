import type { GraphNode, ValueId } from '../graph.ts';
import { isBoundary } from '../trace/index.ts';

/**
 * The nodes that the outputs (and expert calls) need, in topological order, otherwise as they are given. Values are below `limit`.
 * Every graph of a starting worker comes through here, before any code is optimised: so it counts with numbers in typed arrays.
 */
export function neededInOrder(nodes: readonly GraphNode[], outputs: readonly ValueId[], limit: number): GraphNode[] {
  /** Place of the node that makes a value, plus one. */
  const makers = new Int32Array(limit);
  for (let place = 0; place < nodes.length; place++)
    for (const output of (nodes[place] as GraphNode).outputs) makers[output] = place + 1;
  const needed = neededPlaces(nodes, outputs, makers);
  const done = new Uint8Array(nodes.length);
  const ordered: GraphNode[] = [];
  // Iterative depth-first order: graphs of unrolled loops are deep.
  const stack: number[] = [];
  const next = new Int32Array(nodes.length);
  for (let root = 0; root < nodes.length; root++) {
    if (needed[root] === 0 || done[root] === 1) continue;
    stack.push(root);
    while (stack.length > 0) {
      const place = stack[stack.length - 1] as number;
      const node = nodes[place] as GraphNode;
      let waits = false;
      while (!waits && (next[place] as number) < node.inputs.length) {
        const input = node.inputs[next[place] as number] as ValueId;
        next[place] = (next[place] as number) + 1;
        const maker = (makers[input] as number) - 1;
        if (maker < 0 || done[maker] === 1) continue;
        stack.push(maker);
        waits = true;
      }
      if (waits) continue;
      stack.pop();
      done[place] = 1;
      ordered.push(node);
    }
  }
  return ordered;
}

/** One for each place of a node that is needed, else zero. */
function neededPlaces(nodes: readonly GraphNode[], outputs: readonly ValueId[], makers: Int32Array): Uint8Array {
  const needed = new Uint8Array(nodes.length);
  const stack: ValueId[] = [...outputs];
  const mark = () => {
    for (let id = stack.pop(); id !== undefined; id = stack.pop()) {
      const place = (makers[id] as number) - 1;
      if (place < 0 || needed[place] === 1) continue;
      needed[place] = 1;
      for (const input of (nodes[place] as GraphNode).inputs) stack.push(input);
    }
  };
  mark();
  nodes.forEach((node, place) => {
    if (!isBoundary(node)) return;
    needed[place] = 1;
    for (const input of node.inputs) stack.push(input);
    mark();
  });
  return needed;
}
