import { sizeOf } from '../../../tensor/index.ts';
import { float, type Ref, sameShape } from '../model.ts';
import { broadcastShapes, type LoweringContext, type LoweringTable } from './context.ts';

/** Exchanges the last two dimensions. */
function swapped(c: LoweringContext, x: Ref): Ref {
  const rank = x.shape.length;
  return c.b.transpose(x, [...Array.from({ length: rank - 2 }, (_, i) => i), rank - 1, rank - 2]);
}

/**
 * `alpha op(a) op(b)`. A stack of matrices times one matrix is one product of tall matrices. On a CPU a transposed
 * operand is read transposed by ONNX Runtime's FusedMatMul; other providers lack that operator.
 */
function product(c: LoweringContext, alpha: number): Ref {
  let [a, b] = [c.in(0), c.in(1)];
  let [transA, transB] = [c.flag('transposeA'), c.flag('transposeB')];
  const out = { dtype: a.dtype, shape: c.out.shape };
  const inner = a.shape.at(transA ? -2 : -1) as number;
  if (inner === 0) return c.full(0);
  if (a.shape.length > 2 && sizeOf(b.shape.slice(0, -2)) === 1 && !transA) {
    a = c.b.reshape(a, [sizeOf(a.shape.slice(0, -1)), inner]);
    b = c.b.reshape(b, b.shape.slice(-2));
  }
  // A tall matrix read transposed costs more than transposing it, if the other operand is much wider (3.2 against 2.4 ms
  // for the weight gradient [1024,256]^T [1024,1024]).
  const wide = transA && a.shape.length === 2 && (b.shape.at(transB ? -2 : -1) as number) >= 2 * (a.shape[1] as number);
  if (wide && !transB && c.onCpu) {
    a = swapped(c, a);
    transA = false;
  }
  if (a.dtype !== 'float32' || !c.onCpu) {
    if (transA) a = swapped(c, a);
    if (transB) b = swapped(c, b);
    transA = false;
    transB = false;
  }
  const rows = a.shape.at(transA ? -1 : -2) as number;
  const columns = b.shape.at(transB ? -2 : -1) as number;
  const shape = [...broadcastShapes([a.shape.slice(0, -2), b.shape.slice(0, -2)]), rows, columns];
  const spec = { dtype: a.dtype, shape };
  let result: Ref;
  if (transA || transB || (alpha !== 1 && c.onCpu)) {
    const attrs = { transA: transA ? 1 : 0, transB: transB ? 1 : 0, alpha: float(alpha) };
    result = c.b.op('FusedMatMul', [a, b], attrs, spec);
  } else {
    result = c.b.op('MatMul', [a, b], {}, spec);
    if (alpha !== 1) result = c.map('Mul', result, c.k(alpha));
  }
  return sameShape(shape, out.shape) ? result : c.b.reshape(result, out.shape);
}

/** `c + alpha op(a) op(b)` in one pass over the result, where a product by itself, its scaling and the addition make three. */
function addProduct(c: LoweringContext): Ref {
  const attrs = {
    transA: c.flag('transposeA') ? 1 : 0,
    transB: c.flag('transposeB') ? 1 : 0,
    alpha: float(c.number('alpha', 1)),
  };
  return c.b.op('Gemm', [c.in(1), c.in(2), c.in(0)], attrs, { dtype: 'float32', shape: c.out.shape });
}

/** Matrix products. */
export const matmuls: LoweringTable = {
  BatchMatMul: (c) => product(c, 1),
  PlexusMatMul: (c) => product(c, c.number('alpha', 1)),
  PlexusAddProduct: addProduct,
};
