import type { GraphNode, ValueId } from '../graph.ts';
import { eitherOrder, near, through, withNumber } from './match.ts';
import type { Rewrite } from './rewrite.ts';

const TANH_SCALE = Math.sqrt(2 / Math.PI);
const TANH_CUBIC = 0.044715;

/**
 * GELU written in plain ops, whichever way its three factors x, 1/2 and `1 + erf(x / sqrt 2)` (or
 * `1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))`) are multiplied.
 */
export function fuseGelu(rewrite: Rewrite, node: GraphNode): void {
  if (node.kernel !== 'Multiply' || rewrite.signature(node.outputs[0] as ValueId).dtype !== 'float32') return;
  const factors = flatten(rewrite, node.outputs[0] as ValueId, 0);
  let half = 1;
  let x: ValueId | null = null;
  let bracket: { x: ValueId; approximate: 'none' | 'tanh' } | null = null;
  for (const factor of factors) {
    const number = rewrite.scalarOf(factor);
    const found = bracketOf(rewrite, factor);
    if (number !== undefined) half *= number;
    else if (found !== null && bracket === null) bracket = found;
    else if (x === null) x = factor;
    else return;
  }
  if (bracket === null || x === null || !near(half, 0.5) || bracket.x !== x) return;
  const { approximate } = bracket;
  const output = rewrite.insert(node, 'PlexusGelu', [x], { approximate })[0] as ValueId;
  rewrite.replaceValue(node.outputs[0] as ValueId, output);
}

/** The factors of a product, at most three levels deep. */
function flatten(rewrite: Rewrite, id: ValueId, depth: number): ValueId[] {
  const product = rewrite.producedBy(id, 'Multiply');
  const quotient = rewrite.producedBy(id, 'RealDiv');
  if (depth < 3 && product !== undefined)
    return product.inputs.flatMap((input) => flatten(rewrite, rewrite.resolve(input), depth + 1));
  const two = quotient === undefined ? undefined : rewrite.scalarOf(quotient.inputs[1] as ValueId);
  if (depth < 3 && quotient !== undefined && two === 2) {
    const half = rewrite.constant(Float32Array.of(0.5), { dtype: 'float32', shape: [] });
    return [half, ...flatten(rewrite, rewrite.resolve(quotient.inputs[0] as ValueId), depth + 1)];
  }
  return [rewrite.resolve(id)];
}

function bracketOf(rewrite: Rewrite, id: ValueId): { x: ValueId; approximate: 'none' | 'tanh' } | null {
  const sum = withNumber(rewrite, id, 'Add');
  if (sum === null || sum.value !== 1) return null;
  const erf = through(rewrite, sum.x, 'Erf');
  if (erf !== null) {
    const x = scaled(rewrite, erf, Math.SQRT1_2);
    return x === null ? null : { x, approximate: 'none' };
  }
  const tanh = through(rewrite, sum.x, 'Tanh');
  const inner = tanh === null ? null : scaled(rewrite, tanh, TANH_SCALE);
  const x = inner === null ? null : cubicOf(rewrite, inner);
  return x === null ? null : { x, approximate: 'tanh' };
}

/** For `x * factor` or `x / (1 / factor)`: x. */
function scaled(rewrite: Rewrite, id: ValueId, factor: number): ValueId | null {
  const product = withNumber(rewrite, id, 'Multiply');
  if (product !== null) return near(product.value, factor) ? product.x : null;
  const quotient = rewrite.producedBy(id, 'RealDiv');
  const divisor = quotient === undefined ? undefined : rewrite.scalarOf(quotient.inputs[1] as ValueId);
  if (quotient === undefined || divisor === undefined || !near(1 / divisor, factor)) return null;
  return rewrite.resolve(quotient.inputs[0] as ValueId);
}

/** For `x + 0.044715 x^3`: x. */
function cubicOf(rewrite: Rewrite, id: ValueId): ValueId | null {
  const sum = rewrite.producedBy(id, 'Add');
  if (sum === undefined) return null;
  for (const [x, cubic] of eitherOrder(rewrite, sum)) {
    const cube = scaled(rewrite, cubic, TANH_CUBIC);
    if (cube !== null && isCube(rewrite, cube, x)) return x;
  }
  return null;
}

function isCube(rewrite: Rewrite, id: ValueId, x: ValueId): boolean {
  const power = rewrite.producedBy(id, 'Pow');
  if (power !== undefined)
    return rewrite.resolve(power.inputs[0] as ValueId) === x && rewrite.scalarOf(power.inputs[1] as ValueId) === 3;
  const product = rewrite.producedBy(id, 'Multiply');
  if (product === undefined) return false;
  return eitherOrder(rewrite, product).some(([a, b]) => {
    if (a !== x) return false;
    if (through(rewrite, b, 'Square') === x) return true;
    const square = rewrite.producedBy(b, 'Multiply');
    return square?.inputs.every((input) => rewrite.resolve(input) === x) ?? false;
  });
}
