import type { GraphNode, ValueId } from '../graph.ts';
import { inputsOf } from './match.ts';
import type { Rewrite } from './rewrite.ts';

/** The sum of all squares of a tensor: read once, while the squares by themselves would be written and read again. */
export function fuseSquaredSum(rewrite: Rewrite, node: GraphNode): void {
  if (node.kernel !== 'Sum') return;
  const output = node.outputs[0] as ValueId;
  const [squares] = inputsOf(rewrite, node) as [ValueId];
  const square = rewrite.producedBy(squares, 'Square');
  if (!square || rewrite.useCount(squares) !== 1) return;
  const [x] = inputsOf(rewrite, square) as [ValueId];
  const all = (node.attrs.axis as readonly number[]).length === rewrite.shape(x).length;
  if (!all || rewrite.shape(output).length > 0 || rewrite.signature(x).dtype !== 'float32') return;
  rewrite.replaceValue(output, rewrite.insert(node, 'PlexusSquaredSum', [x])[0] as ValueId);
}
