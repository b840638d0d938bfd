import type { Attr, Graph, GraphConstant, GraphNode, ValueId } from '../graph.ts';
import { isBoundary } from '../trace/index.ts';
import { applied, type Rewrite } from './rewrite.ts';

/** Computes what is computed twice only once, and holds equal small constants once. */
export function shareCommon(graph: Graph): Graph {
  return applied(graph, sharePass);
}

/** `shareCommon`, as a pass. */
export function sharePass(rewrite: Rewrite): void {
  const constants = new Map<string, ValueId>();
  for (const [id, data] of rewrite.constants) {
    if (data.length > 64) continue;
    const key = `${JSON.stringify(rewrite.shape(id))}${constantKey(data)}`;
    const known = constants.get(key);
    if (known === undefined) constants.set(key, id);
    else rewrite.replaceValue(id, known);
  }
  const seen = new Map<string, GraphNode>();
  for (const node of rewrite.nodes) {
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
}

function constantKey(data: GraphConstant['data']): string {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return `${data.constructor.name}:${bytes.join()}`;
}

/** By the attributes themselves: passes ask again and again for those of the same nodes. */
const attrsKeys = new WeakMap<GraphNode['attrs'], string>();

/** JSON, but telling apart the numbers that JSON does not (NaN, infinities, -0). */
export function attrsKey(attrs: GraphNode['attrs']): string {
  let key = attrsKeys.get(attrs);
  if (key === undefined) {
    key = hasOddNumber(attrs)
      ? JSON.stringify(attrs, (_, value: Attr) => oddNumber(value) ?? value)
      : JSON.stringify(attrs);
    attrsKeys.set(attrs, key);
  }
  return key;
}

function oddNumber(value: Attr): string | null {
  if (typeof value !== 'number' || (Number.isFinite(value) && !Object.is(value, -0))) return null;
  return `#${Object.is(value, -0) ? '-0' : value}`;
}

/** Whether there is a number that JSON does not tell apart. There hardly ever is, and plain JSON is much faster. */
function hasOddNumber(value: Attr): boolean {
  if (typeof value !== 'object' || value === null) return oddNumber(value) !== null;
  return Object.values(value).some(hasOddNumber);
}
