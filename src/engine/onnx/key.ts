import { createHash } from 'node:crypto';
import type { VjpOptions } from '../engine.ts';
import type { Graph, ValueId } from '../graph.ts';
import { attrsKey } from '../passes/common.ts';
import type { VjpTrace } from '../trace/index.ts';

/**
 * A digest of what a graph computes: inputs, constants, nodes and outputs with values numbered by order. Module paths
 * and value ids do not count, so that equal layers have equal keys.
 */
export function graphKey(graph: Graph): string {
  const numbers = new Map<ValueId, number>();
  const number = (id: ValueId): number => {
    const known = numbers.get(id);
    if (known !== undefined) return known;
    numbers.set(id, numbers.size);
    return numbers.size - 1;
  };
  const spec = (id: ValueId): string => {
    const value = graph.values.get(id);
    return `${number(id)}:${value?.dtype}[${value?.shape}]`;
  };
  const hash = createHash('sha256');
  hash.update(graph.inputs.map(spec).join());
  for (const { id, data } of graph.constants) {
    hash.update(`\nc${spec(id)}=`);
    hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  const lines = graph.nodes.map(
    (node) => `${node.kernel}(${node.inputs.map(number)})${attrsKey(node.attrs)}>${node.outputs.map(spec)}`,
  );
  hash.update(`\n${lines.join('\n')}\n${graph.outputs.map(number)}`);
  return hash.digest('base64');
}

/**
 * A digest of a traced vector-Jacobian product and of how it is to be cut. Value ids count here, since slots are value
 * ids: equal functions are traced to equal ids.
 */
export function vjpKey(vjp: VjpTrace, options: Pick<VjpOptions, 'remat' | 'splitWeight' | 'fused'>): string {
  const { remat, splitWeight, fused } = options;
  const { graph, inputs, outputs, cotangents, gradients } = vjp;
  const rematOf = typeof remat === 'function' ? graph.nodes.map(({ path }) => remat(path)) : remat;
  const ids = graph.nodes.map((node) => node.outputs);
  return (
    graphKey(graph) +
    JSON.stringify([inputs, outputs, cotangents, gradients, graph.outputs, ids, rematOf, splitWeight, fused])
  );
}
