import type { GraphNode, ValueId } from '../graph.ts';
import { eitherOrder, inputsOf, reducesLast, through, unreshaped, withNumber } from './match.ts';
import type { Rewrite } from './rewrite.ts';

/**
 * Layer normalization written in plain ops: `(x - mean) * rsqrt(variance + epsilon) * gain + bias`, or with a division
 * by the square root, over the last axis. What its gradient reads (the mean, the inverse deviation) comes from the fused
 * kernel too, where the forward used rsqrt.
 */
export function fuseLayerNorm(rewrite: Rewrite, node: GraphNode): void {
  if (node.kernel !== 'Add') return;
  for (const [scaled, bias] of eitherOrder(rewrite, node)) {
    const product = rewrite.producedBy(scaled, 'Multiply');
    if (product === undefined || rewrite.shape(bias).length !== 1) continue;
    for (const [normal, gain] of eitherOrder(rewrite, product)) {
      const found = normalized(rewrite, normal);
      const width = found === null ? undefined : rewrite.shape(found.x).at(-1);
      if (found === null || rewrite.shape(gain).length !== 1) continue;
      if (rewrite.shape(gain)[0] !== width || rewrite.shape(bias)[0] !== width) continue;
      const inputs = [found.x, gain, bias];
      const [y, mean, inverse] = rewrite.insert(node, 'PlexusLayerNorm', inputs, { epsilon: found.epsilon }) as [
        ValueId,
        ValueId,
        ValueId,
      ];
      rewrite.replaceValue(node.outputs[0] as ValueId, y);
      if (equalShape(rewrite, found.mean, mean)) rewrite.replaceValue(found.mean, mean);
      if (found.inverse !== null && equalShape(rewrite, found.inverse, inverse))
        rewrite.replaceValue(found.inverse, inverse);
      return;
    }
  }
}

interface Normalized {
  readonly x: ValueId;
  readonly mean: ValueId;
  readonly inverse: ValueId | null;
  readonly epsilon: number;
}

function normalized(rewrite: Rewrite, id: ValueId): Normalized | null {
  const product = rewrite.producedBy(id, 'Multiply');
  for (const [centred, inverse] of product === undefined ? [] : eitherOrder(rewrite, product)) {
    const shifted = through(rewrite, inverse, 'Rsqrt');
    const found = shifted === null ? null : centredBy(rewrite, centred, shifted);
    if (found !== null) return { ...found, inverse };
  }
  const quotient = rewrite.producedBy(id, 'RealDiv');
  if (quotient === undefined) return null;
  const [centred, deviation] = inputsOf(rewrite, quotient) as [ValueId, ValueId];
  const shifted = through(rewrite, deviation, 'Sqrt');
  const found = shifted === null ? null : centredBy(rewrite, centred, shifted);
  return found === null ? null : { ...found, inverse: null };
}

/** Checks that `centred` is x minus its mean, and `shifted` the mean of its square plus a number. */
function centredBy(rewrite: Rewrite, centred: ValueId, shifted: ValueId): Omit<Normalized, 'inverse'> | null {
  const sum = withNumber(rewrite, shifted, 'Add');
  const variance = sum === null ? undefined : rewrite.producedBy(unreshaped(rewrite, sum.x), 'Mean');
  if (sum === null || variance === undefined || !reducesLast(rewrite, variance)) return null;
  const deviation = through(rewrite, variance.inputs[0] as ValueId, 'Square');
  const [first, second] = [deviation, centred].map((id) => (id === null ? null : minusMean(rewrite, id)));
  if (!first || !second || first.x !== second.x) return null;
  return { x: first.x, mean: second.mean, epsilon: sum.value };
}

function minusMean(rewrite: Rewrite, id: ValueId): { x: ValueId; mean: ValueId } | null {
  const sub = rewrite.producedBy(id, 'Sub');
  if (sub === undefined) return null;
  const [x, mean] = inputsOf(rewrite, sub) as [ValueId, ValueId];
  const node = rewrite.producedBy(unreshaped(rewrite, mean), 'Mean');
  if (node === undefined || !reducesLast(rewrite, node) || rewrite.resolve(node.inputs[0] as ValueId) !== x)
    return null;
  return { x, mean };
}

function equalShape(rewrite: Rewrite, a: ValueId, b: ValueId): boolean {
  const [left, right] = [rewrite.shape(a), rewrite.shape(b)];
  return left.length === right.length && left.every((dim, i) => dim === right[i]);
}
