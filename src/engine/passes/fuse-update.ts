import { sizeOf } from '../../tensor/index.ts';
import type { GraphNode, ValueId } from '../graph.ts';
import { eitherOrder, inputsOf } from './match.ts';
import type { Rewrite } from './rewrite.ts';

/**
 * A step of gradient descent, `w - rate * (op(a) op(b))`, as one kernel that reads the weights and writes the new ones: the
 * gradient by itself, and the gradient times the rate, are never written. The rate multiplies the smaller factor of the product
 * (activations, where batches are small), so the last bits are not those of the plain form. Only graphs that have both the gradient and
 * the step have this: several local steps in one executable. Where gradients are summed over workers in between nothing changes.
 */
export function fuseUpdate(rewrite: Rewrite, node: GraphNode): void {
  if (node.kernel !== 'Sub') return;
  const output = node.outputs[0] as ValueId;
  const [weights, change] = inputsOf(rewrite, node) as [ValueId, ValueId];
  const { dtype, shape } = rewrite.signature(output);
  const isLike = (id: ValueId) => rewrite.shape(id).join() === shape.join();
  if (dtype !== 'float32' || shape.length !== 2 || !isLike(weights) || !isLike(change)) return;
  const scaled = rewrite.producedBy(change, 'Multiply');
  if (!scaled || rewrite.useCount(change) !== 1) return;
  for (const [gradient, rate] of eitherOrder(rewrite, scaled)) {
    const product = rewrite.producer(gradient);
    const isProduct = product?.kernel === 'BatchMatMul' || product?.kernel === 'PlexusMatMul';
    if (!isProduct || rewrite.useCount(gradient) !== 1 || !isLike(gradient) || sizeOf(rewrite.shape(rate)) !== 1)
      continue;
    if (rewrite.shape(rate).length > 2) continue;
    const factors = inputsOf(rewrite, product) as [ValueId, ValueId];
    if (factors.some((factor) => rewrite.shape(factor).length !== 2)) continue;
    const [a, b] = factors.map((factor) => sizeOf(rewrite.shape(factor))) as [number, number];
    const smaller = a < b ? 0 : 1;
    const small = rewrite.insert(node, 'Multiply', [factors[smaller] as ValueId, rate])[0] as ValueId;
    const { transposeA, transposeB, alpha = 1 } = product.attrs as Record<string, boolean | number>;
    const inputs = [weights, ...factors.map((factor, i) => (i === smaller ? small : factor))];
    const attrs = { transposeA: transposeA === true, transposeB: transposeB === true, alpha: -(alpha as number) };
    rewrite.replaceValue(output, rewrite.insert(node, 'PlexusAddProduct', inputs, attrs)[0] as ValueId);
    return;
  }
}
