import type { Signature } from '../../engine.ts';
import { type Attrs, defineKernel } from '../definition.ts';
import { tf } from '../tf.ts';

function matmul(inputs: readonly Signature[], attrs: Attrs) {
  const [a, b] = inputs as [Signature, Signature];
  const [transposeA, transposeB] = [attrs.transposeA === true, attrs.transposeB === true];
  const rankA = a.shape.length;
  const rankB = b.shape.length;
  if (rankA < 2 || rankB < 2) throw new RangeError('matmul takes tensors of rank 2 or more');
  const [m, k] = [a.shape[rankA - (transposeA ? 1 : 2)], a.shape[rankA - (transposeA ? 2 : 1)]] as [number, number];
  const [k2, n] = [b.shape[rankB - (transposeB ? 1 : 2)], b.shape[rankB - (transposeB ? 2 : 1)]] as [number, number];
  if (k !== k2)
    throw new RangeError(`inner sizes ${k} and ${k2} differ (transposeA ${transposeA}, transposeB ${transposeB})`);
  const batch = tf.backend_util.assertAndGetBroadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2));
  return { outputs: [{ dtype: 'float32' as const, shape: [...batch, m, n] }], transposeA, transposeB };
}

/** Batched matrix product; batch dimensions broadcast. */
defineKernel('BatchMatMul', ['a', 'b'], (inputs, attrs) => {
  const { outputs, transposeA, transposeB } = matmul(inputs, attrs);
  return { outputs, attrs: { transposeA, transposeB } };
});

/** `alpha * op(a) op(b)`: what passes make of scaled and transposed matrix products. */
defineKernel('PlexusMatMul', ['a', 'b'], (inputs, attrs) => {
  const { outputs, transposeA, transposeB } = matmul(inputs, attrs);
  return { outputs, attrs: { transposeA, transposeB, alpha: attrs.alpha ?? 1 } };
});

/** `c + alpha * op(a) op(b)` for matrices: what passes make of a step of gradient descent. */
defineKernel('PlexusAddProduct', ['c', 'a', 'b'], (inputs, attrs) => {
  const [c, ...factors] = inputs as [Signature, Signature, Signature];
  const { outputs, transposeA, transposeB } = matmul(factors, attrs);
  const { shape } = outputs[0] as Signature;
  if (shape.length !== 2 || shape.some((dim, i) => dim !== c.shape[i]) || c.shape.length !== 2)
    throw new RangeError(
      `a product of shape [${shape}] is added to a tensor of shape [${c.shape}]: both must be one matrix`,
    );
  return { outputs, attrs: { transposeA, transposeB, alpha: attrs.alpha ?? 1 } };
});

/** Names of the kernels of this file, for registration. */
export const matmulKernels = ['BatchMatMul', 'PlexusMatMul', 'PlexusAddProduct'];
