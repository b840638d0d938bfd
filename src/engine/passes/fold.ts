import { sizeOf } from '../../tensor/index.ts';
import type { Graph, GraphConstant, GraphNode, ValueId } from '../graph.ts';
import { applied, type Rewrite } from './rewrite.ts';
import { broadcast } from './simplify.ts';

type Data = GraphConstant['data'];

/** Elements that a folded constant may have: larger ones stay nodes, which are smaller than their results. */
const MAX_ELEMENTS = 256;

const f32 = Math.fround;

/** Each result is what a float32 engine computes: one correctly rounded operation on float32 operands. */
const unary: Readonly<Record<string, (x: number) => number>> = {
  Neg: (x) => -x,
  Abs: Math.abs,
  Square: (x) => x * x,
  Sqrt: Math.sqrt,
  Reciprocal: (x) => 1 / x,
};

const binary: Readonly<Record<string, (a: number, b: number) => number>> = {
  Add: (a, b) => a + b,
  Sub: (a, b) => a - b,
  Multiply: (a, b) => a * b,
  RealDiv: (a, b) => a / b,
  Maximum: Math.max,
  Minimum: Math.min,
};

/** Computes float32 arithmetic, reshapes and casts of small constants while compiling. */
export function foldConstants(graph: Graph): Graph {
  return applied(graph, foldPass);
}

/** `foldConstants`, as a pass. */
export function foldPass(rewrite: Rewrite): void {
  for (const node of rewrite.nodes) {
    if (!readsConstants(rewrite, node)) continue;
    const output = node.outputs[0] as ValueId;
    if (sizeOf(rewrite.shape(output)) > MAX_ELEMENTS) continue;
    const operands = node.inputs.map((id) => constantOf(rewrite, id));
    const data = evaluate(rewrite, node, operands);
    if (data !== null) rewrite.replaceValue(output, rewrite.constant(data, rewrite.signature(output)));
  }
}

/** Whether a node has inputs, and all are known. Most nodes do not, so this looks without making anything. */
function readsConstants(rewrite: Rewrite, { inputs }: GraphNode): boolean {
  for (const id of inputs) if (!rewrite.constants.has(rewrite.resolve(id)) && !isSmallFill(rewrite, id)) return false;
  return inputs.length > 0;
}

function isSmallFill(rewrite: Rewrite, id: ValueId): boolean {
  if (rewrite.producedBy(id, 'Fill') === undefined) return false;
  const { dtype, shape } = rewrite.signature(id);
  return dtype === 'float32' && sizeOf(shape) <= MAX_ELEMENTS;
}

/** The data of an input of a node that reads constants. */
function constantOf(rewrite: Rewrite, id: ValueId): Data {
  const data = rewrite.constants.get(rewrite.resolve(id));
  if (data !== undefined) return data;
  const fill = rewrite.producedBy(id, 'Fill') as GraphNode;
  return new Float32Array(sizeOf(rewrite.shape(id))).fill(fill.attrs.value as number);
}

function evaluate(rewrite: Rewrite, node: GraphNode, operands: readonly Data[]): Data | null {
  const [a, b] = operands as [Data, Data];
  if (node.kernel === 'Reshape') return a;
  if (node.kernel === 'Cast') return cast(a, node.attrs.dtype as string);
  const one = unary[node.kernel];
  if (one !== undefined && a instanceof Float32Array) return a.map((x) => f32(one(x)));
  const two = binary[node.kernel];
  if (two === undefined || !(a instanceof Float32Array) || !(b instanceof Float32Array)) return null;
  const shapes = node.inputs.map((id) => rewrite.shape(rewrite.resolve(id)));
  const size = sizeOf(broadcast(shapes));
  // Only scalars and equal shapes: anything else is rare, and not worth an index calculation.
  if (![1, size].includes(a.length) || ![1, size].includes(b.length)) return null;
  return Float32Array.from({ length: size }, (_, i) =>
    f32(two(a[a.length === 1 ? 0 : i] as number, b[b.length === 1 ? 0 : i] as number)),
  );
}

function cast(data: Data, dtype: string): Data | null {
  if (dtype === 'float32') return Float32Array.from(data);
  if (dtype === 'int32' && !(data instanceof Float32Array && data.some((x) => !Number.isFinite(x))))
    return Int32Array.from(data, Math.trunc);
  return dtype === 'bool' ? Uint8Array.from(data, (x) => (x === 0 ? 0 : 1)) : null;
}
