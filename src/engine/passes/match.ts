import type { GraphNode, ValueId } from '../graph.ts';
import type { Rewrite } from './rewrite.ts';

/** The inputs of a node, resolved. */
export function inputsOf(rewrite: Rewrite, node: GraphNode): ValueId[] {
  return node.inputs.map((id) => rewrite.resolve(id));
}

/** Both orders of a commutative node's operands. */
export function eitherOrder(rewrite: Rewrite, node: GraphNode): [ValueId, ValueId][] {
  const [a, b] = inputsOf(rewrite, node) as [ValueId, ValueId];
  return [
    [a, b],
    [b, a],
  ];
}

/** The only input of a value's producer, if that is of the given kernel. */
export function through(rewrite: Rewrite, id: ValueId, kernel: string): ValueId | null {
  const node = rewrite.producedBy(id, kernel);
  return node === undefined ? null : rewrite.resolve(node.inputs[0] as ValueId);
}

/** The same, looking through a Reshape if there is one. */
export function unreshaped(rewrite: Rewrite, id: ValueId): ValueId {
  return through(rewrite, id, 'Reshape') ?? rewrite.resolve(id);
}

/** Splits `x + number` or `x * number` (in either order). */
export function withNumber(
  rewrite: Rewrite,
  id: ValueId,
  kernel: 'Add' | 'Multiply',
): { x: ValueId; value: number } | null {
  const node = rewrite.producedBy(id, kernel);
  if (node === undefined) return null;
  for (const [x, scalar] of eitherOrder(rewrite, node)) {
    const value = rewrite.scalarOf(scalar);
    if (value !== undefined && rewrite.scalarOf(x) === undefined) return { x, value };
  }
  return null;
}

/** Whether a node reduces exactly the last axis. */
export function reducesLast(rewrite: Rewrite, node: GraphNode, attribute = 'axis'): boolean {
  const axes = node.attrs[attribute] as readonly number[];
  return axes.length === 1 && axes[0] === rewrite.shape(rewrite.resolve(node.inputs[0] as ValueId)).length - 1;
}

/** Whether two numbers are the same float32, give or take the rounding of how they were written. */
export function near(a: number, b: number): boolean {
  return Math.abs(a - b) <= 1e-6 * Math.max(Math.abs(a), Math.abs(b));
}
