import type { Graph, GraphNode, ValueId } from '../graph.ts';
import { fuseConvolutionBias } from './fuse-convolution.ts';
import { fuseGelu } from './fuse-gelu.ts';
import { fuseLayerNorm } from './fuse-layer-norm.ts';
import { fuseCrossEntropy, fuseLogSoftmax } from './fuse-softmax.ts';
import { fuseSquaredSum } from './fuse-squares.ts';
import { fuseUpdate } from './fuse-update.ts';
import { type Pass, Rewrite } from './rewrite.ts';

/** Turns patterns of nodes into kernels that do the same in one pass over memory. */
export function fuse(graph: Graph): Graph {
  const rewrite = new Rewrite(graph);
  for (const pass of fusePasses) {
    pass(rewrite);
    rewrite.settle();
  }
  return rewrite.finish();
}

/** The passes of `fuse`: one for each pattern, in order. */
export const fusePasses: readonly Pass[] = [
  fuseLogSoftmax,
  fuseCrossEntropy,
  fuseLayerNorm,
  fuseGelu,
  fuseSilu,
  fuseMatMul,
  fuseConvolutionBias,
  fuseUpdate,
  fuseSquaredSum,
].map((pattern) => (rewrite: Rewrite) => {
  for (const node of rewrite.nodes) if (!rewrite.isGone(node)) pattern(rewrite, node);
});

/** x * sigmoid(x). */
function fuseSilu(rewrite: Rewrite, node: GraphNode): void {
  if (node.kernel !== 'Multiply') return;
  const [a, b] = node.inputs.map((id) => rewrite.resolve(id)) as [ValueId, ValueId];
  for (const [x, gate] of [
    [a, b],
    [b, a],
  ] as const) {
    const sigmoid = rewrite.producedBy(gate, 'Sigmoid');
    if (sigmoid === undefined || rewrite.resolve(sigmoid.inputs[0] as ValueId) !== x) continue;
    // Where the gate is needed anyway (a gradient reads it), nothing is saved.
    if (rewrite.useCount(gate) > 1) continue;
    rewrite.replaceValue(node.outputs[0] as ValueId, rewrite.insert(node, 'PlexusSilu', [x])[0] as ValueId);
    return;
  }
}

/** Transpositions of the last two axes before a matrix product, and multiplications by a number before or after it. */
function fuseMatMul(rewrite: Rewrite, node: GraphNode): void {
  if (node.kernel === 'BatchMatMul' || node.kernel === 'PlexusMatMul') {
    absorbTransposes(rewrite, node);
    return;
  }
  if (node.kernel === 'Transpose') {
    turnProduct(rewrite, node);
    return;
  }
  if (node.kernel !== 'Multiply' && node.kernel !== 'RealDiv') return;
  const scaled = scaleOf(rewrite, node);
  if (scaled === null) return;
  const product = rewrite.producer(scaled.x);
  const isProduct = product?.kernel === 'BatchMatMul' || product?.kernel === 'PlexusMatMul';
  if (isProduct && rewrite.useCount(scaled.x) === 1) {
    rewrite.replaceNode(product, scaledBy(product, scaled.factor));
    rewrite.replaceValue(node.outputs[0] as ValueId, scaled.x);
    return;
  }
  scaleConsumers(rewrite, node, scaled);
}

/** Moves a factor into the matrix products that read the scaled tensor, if nothing else does. */
function scaleConsumers(rewrite: Rewrite, node: GraphNode, { x, factor }: { x: ValueId; factor: number }): void {
  const output = node.outputs[0] as ValueId;
  const users = rewrite.users(output);
  const onlyProducts = users.every((user) => user.kernel === 'BatchMatMul' || user.kernel === 'PlexusMatMul');
  if (!onlyProducts || users.length === 0 || users.length !== rewrite.useCount(output)) return;
  // A node that reads it on both sides is listed twice, and takes the factor twice.
  const times = new Map<GraphNode, number>();
  for (const user of users) times.set(user, (times.get(user) ?? 0) + 1);
  for (const [user, count] of times) rewrite.replaceNode(user, scaledBy(user, factor ** count));
  rewrite.replaceValue(output, x);
}

function scaledBy(product: GraphNode, factor: number): Pick<GraphNode, 'kernel' | 'attrs'> {
  const alpha = Math.fround(((product.attrs.alpha as number | undefined) ?? 1) * factor);
  const { transposeA, transposeB } = product.attrs as { transposeA: boolean; transposeB: boolean };
  return { kernel: 'PlexusMatMul', attrs: { transposeA, transposeB, alpha } };
}

/** `x * factor` or `x / divisor` with a constant number that leaves the shape as it is. */
function scaleOf(rewrite: Rewrite, node: GraphNode): { x: ValueId; factor: number } | null {
  const [a, b] = node.inputs as [ValueId, ValueId];
  const rank = rewrite.shape(node.outputs[0] as ValueId).length;
  const candidates =
    node.kernel === 'Multiply'
      ? [
          [a, b],
          [b, a],
        ]
      : [[a, b]];
  for (const [x, scalar] of candidates as [ValueId, ValueId][]) {
    const value = rewrite.scalarOf(scalar);
    if (value === undefined || !Number.isFinite(value) || value === 0) continue;
    if (rewrite.shape(rewrite.resolve(x)).length !== rank || rewrite.signature(rewrite.resolve(x)).dtype !== 'float32')
      continue;
    if (node.kernel === 'Multiply') return { x: rewrite.resolve(x), factor: value };
    // Division and multiplication by the inverse agree to the bit only for powers of two; elsewhere the last bit may
    // differ, the same way on every mesh.
    return { x: rewrite.resolve(x), factor: Math.fround(1 / value) };
  }
  return null;
}

function absorbTransposes(rewrite: Rewrite, node: GraphNode): void {
  let current = node;
  for (const side of [0, 1] as const) {
    const transpose = rewrite.producedBy(current.inputs[side] as ValueId, 'Transpose');
    if (transpose === undefined || !swapsLastTwo(transpose.attrs.perm as readonly number[])) continue;
    const flag = side === 0 ? 'transposeA' : 'transposeB';
    const source = transpose.inputs[0] as ValueId;
    current = rewrite.replaceNode(current, {
      inputs: current.inputs.map((id, i) => (i === side ? source : id)),
      attrs: { ...current.attrs, [flag]: current.attrs[flag] !== true },
    });
  }
}

/** A transposed product is the product of the transposed factors, the other way round. */
function turnProduct(rewrite: Rewrite, node: GraphNode): void {
  const input = node.inputs[0] as ValueId;
  const product = rewrite.producer(input);
  const isProduct = product?.kernel === 'BatchMatMul' || product?.kernel === 'PlexusMatMul';
  if (!isProduct || rewrite.useCount(input) !== 1 || !swapsLastTwo(node.attrs.perm as readonly number[])) return;
  const { transposeA, transposeB } = product.attrs as { transposeA: boolean; transposeB: boolean };
  rewrite.replaceNode(node, {
    kernel: product.kernel,
    inputs: [product.inputs[1] as ValueId, product.inputs[0] as ValueId],
    attrs: { ...product.attrs, transposeA: !transposeB, transposeB: !transposeA },
  });
}

function swapsLastTwo(perm: readonly number[]): boolean {
  const rank = perm.length;
  if (rank < 2) return false;
  const swapped = perm.map((_, i) => (i === rank - 1 ? rank - 2 : i === rank - 2 ? rank - 1 : i));
  return perm.every((axis, i) => axis === swapped[i]);
}
