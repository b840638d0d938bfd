import { Buffer } from 'node:buffer';
import type { Graph, GraphConstant, GraphNode, ValueId } from '../graph.ts';
import { isBoundary } from '../trace/index.ts';
import { Rewrite } from './rewrite.ts';

/** Computes what is computed twice only once, and holds equal small constants once. */
export function shareCommon(graph: Graph): Graph {
  const rewrite = new Rewrite(graph);
  const constants = new Map<string, ValueId>();
  for (const { id, data } of graph.constants) {
    if (data.length > 64) continue;
    const key = `${JSON.stringify(rewrite.shape(id))}${constantKey(data)}`;
    const known = constants.get(key);
    if (known === undefined) constants.set(key, id);
    else rewrite.replaceValue(id, known);
  }
  const seen = new Map<string, GraphNode>();
  for (const node of graph.nodes) {
    if (isBoundary(node)) continue;
    const key = `${node.kernel}(${node.inputs.map((id) => rewrite.resolve(id))})${attrsKey(node.attrs)}`;
    const known = seen.get(key);
    if (known === undefined) {
      seen.set(key, node);
      continue;
    }
    node.outputs.forEach((id, i) => {
      rewrite.replaceValue(id, known.outputs[i] as ValueId);
    });
  }
  return rewrite.finish();
}

function constantKey(data: GraphConstant['data']): string {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return `${data.constructor.name}:${Buffer.from(bytes).toString('base64')}`;
}

/** JSON, but telling apart the numbers that JSON does not (NaN, infinities, -0). */
export function attrsKey(attrs: GraphNode['attrs']): string {
  return JSON.stringify(attrs, (_, value: unknown) =>
    typeof value === 'number' && (!Number.isFinite(value) || Object.is(value, -0))
      ? `#${Object.is(value, -0) ? '-0' : value}`
      : value,
  );
}
