import { sizeOf } from '../../tensor/index.ts';
import type { Graph, GraphNode, ValueId } from '../graph.ts';
import { applied, ELEMENTWISE, type Rewrite } from './rewrite.ts';

/** Removes what does nothing: reshapes, casts and transpositions that cancel, multiplications by one, and the like. */
export function simplify(graph: Graph): Graph {
  return applied(graph, simplifyPass);
}

/** `simplify`, as a pass. */
export function simplifyPass(rewrite: Rewrite): void {
  for (const node of rewrite.nodes) simplifyNode(rewrite, node);
}

function simplifyNode(rewrite: Rewrite, node: GraphNode): void {
  const output = node.outputs[0] as ValueId;
  const input = node.inputs[0];
  if (input === undefined) return;
  const same = equal(rewrite.shape(input), rewrite.shape(output));
  switch (node.kernel) {
    case 'Identity':
      rewrite.replaceValue(output, input);
      break;
    case 'Cast':
      if (rewrite.signature(input).dtype === node.attrs.dtype) rewrite.replaceValue(output, input);
      break;
    case 'Slice':
    case 'PadV2':
    case 'Tile':
      if (same) rewrite.replaceValue(output, input);
      break;
    case 'Concat':
      if (node.inputs.length === 1) rewrite.replaceValue(output, input);
      break;
    case 'Reshape':
      simplifyReshape(rewrite, node, input, output);
      break;
    case 'Transpose':
      simplifyTranspose(rewrite, node, input, output);
      break;
    case 'Multiply':
    case 'RealDiv':
      simplifyFactor(rewrite, node, output);
      break;
    default:
  }
}

function simplifyReshape(rewrite: Rewrite, node: GraphNode, input: ValueId, output: ValueId): void {
  const before = rewrite.producedBy(input, 'Reshape');
  const source = before === undefined ? input : (before.inputs[0] as ValueId);
  if (equal(rewrite.shape(rewrite.resolve(source)), rewrite.shape(output))) rewrite.replaceValue(output, source);
  else if (before !== undefined) rewrite.replaceNode(node, { inputs: [source] });
}

function simplifyTranspose(rewrite: Rewrite, node: GraphNode, input: ValueId, output: ValueId): void {
  let perm = node.attrs.perm as readonly number[];
  let source = input;
  const before = rewrite.producedBy(input, 'Transpose');
  if (before !== undefined) {
    const first = before.attrs.perm as readonly number[];
    perm = perm.map((axis) => first[axis] as number);
    source = before.inputs[0] as ValueId;
  }
  const shape = rewrite.shape(rewrite.resolve(source));
  const moved = perm.filter((axis) => shape[axis] !== 1);
  // Only axes of size one move: the elements stay in order.
  const inOrder = moved.every((axis, i) => i === 0 || axis > (moved[i - 1] as number));
  if (perm.every((axis, i) => axis === i)) rewrite.replaceValue(output, source);
  else if (inOrder)
    rewrite.replaceNode(node, { kernel: 'Reshape', inputs: [source], attrs: { shape: rewrite.shape(output) } });
  else if (before !== undefined) rewrite.replaceNode(node, { inputs: [source], attrs: { perm } });
}

function simplifyFactor(rewrite: Rewrite, node: GraphNode, output: ValueId): void {
  const [a, b] = node.inputs as [ValueId, ValueId];
  if (rewrite.scalarOf(b) === 1 && equal(rewrite.shape(a), rewrite.shape(output))) rewrite.replaceValue(output, a);
  else if (node.kernel === 'Multiply' && rewrite.scalarOf(a) === 1 && equal(rewrite.shape(b), rewrite.shape(output)))
    rewrite.replaceValue(output, b);
}

/**
 * Lets element-wise nodes broadcast by themselves: an operand that is a Tile of axes of size one becomes the small
 * tensor, an operand that is full of one number becomes a scalar.
 */
export function unbroadcastOperands(graph: Graph): Graph {
  return applied(graph, unbroadcastPass);
}

/** `unbroadcastOperands`, as a pass. */
export function unbroadcastPass(rewrite: Rewrite): void {
  const scalars = new Map<string, ValueId>();
  for (const original of rewrite.nodes) {
    if (!ELEMENTWISE.has(original.kernel)) continue;
    let node = original;
    node.inputs.forEach((input, i) => {
      const small = smaller(rewrite, input, scalars);
      if (small === null) return;
      const others = node.inputs.filter((_, k) => k !== i).map((id) => rewrite.shape(rewrite.resolve(id)));
      if (!equal(broadcast([rewrite.shape(small), ...others]), rewrite.shape(node.outputs[0] as ValueId))) return;
      node = rewrite.replaceNode(node, { inputs: node.inputs.map((id, k) => (k === i ? small : id)) });
    });
  }
}

/** A smaller value that broadcasts to `id`, or null. */
function smaller(rewrite: Rewrite, id: ValueId, scalars: Map<string, ValueId>): ValueId | null {
  const signature = rewrite.signature(rewrite.resolve(id));
  const producer = rewrite.producer(id);
  if (producer?.kernel === 'Fill' && sizeOf(signature.shape) > 1) {
    const value = producer.attrs.value as number;
    const key = `${signature.dtype}:${Object.is(value, -0) ? '-0' : value}`;
    const known = scalars.get(key);
    if (known !== undefined) return known;
    const data =
      signature.dtype === 'float32'
        ? Float32Array.of(value)
        : signature.dtype === 'int32'
          ? Int32Array.of(value)
          : Uint8Array.of(value);
    const scalar = rewrite.constant(data, { dtype: signature.dtype, shape: [] });
    scalars.set(key, scalar);
    return scalar;
  }
  if (producer?.kernel !== 'Tile') return null;
  const source = producer.inputs[0] as ValueId;
  const reps = producer.attrs.reps as readonly number[];
  return rewrite.shape(source).every((dim, axis) => dim === 1 || reps[axis] === 1) ? source : null;
}

/** Shape that tensors of these shapes broadcast to. */
export function broadcast(shapes: readonly (readonly number[])[]): number[] {
  const rank = Math.max(...shapes.map((shape) => shape.length));
  return Array.from({ length: rank }, (_, i) => {
    const dims = shapes.map((shape) => shape[shape.length - rank + i] ?? 1);
    return dims.find((dim) => dim !== 1) ?? 1;
  });
}

export function equal(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}
