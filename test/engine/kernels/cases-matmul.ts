import type { Tensor } from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { layerNorm, rmsNorm, softmaxCrossEntropy, tf } from '../../../src/engine/index.ts';
import { anyOf, exactly, type Input, type KernelCase } from './harness.ts';

const size = (min = 1) => fc.integer({ min, max: 6 });

/** Inputs of a product, either operand transposed, with 0 to 2 batch dimensions. */
function operands(transposeA: boolean, transposeB: boolean): fc.Arbitrary<Input[]> {
  return fc
    .tuple(fc.array(size(), { maxLength: 2 }), size(), size(), size())
    .map(([batch, m, k, n]) => [
      { shape: [...batch, ...(transposeA ? [k, m] : [m, k])] },
      { shape: [...batch, ...(transposeB ? [n, k] : [k, n])] },
    ]);
}

const flags = [false, true];
const products = flags.flatMap((ta) =>
  flags.map(
    (tb): KernelCase => ({
      name: `matMul${ta ? ' a^T' : ''}${tb ? ' b^T' : ''}`,
      inputs: operands(ta, tb),
      fn: (a, b) => tf.matMul(a as Tensor, b as Tensor, ta, tb),
    }),
  ),
);

/** The kernel that passes make of scaled products, on its own. */
const scaled = (transposeA: boolean, transposeB: boolean) => (a: Tensor, b: Tensor) =>
  tf.engine().runKernel('PlexusMatMul', { a, b }, { transposeA, transposeB, alpha: 0.3 }) as Tensor;

/** The kernel that passes make of a step of gradient descent, on its own: its matrix is added to a product of that shape. */
const added = (transposeA: boolean, transposeB: boolean) => (c: Tensor, a: Tensor, b: Tensor) =>
  tf.engine().runKernel('PlexusAddProduct', { c, a, b }, { transposeA, transposeB, alpha: -0.5 }) as Tensor;

export const matmulCases: KernelCase[] = [
  ...products,
  ...flags.flatMap((ta) =>
    flags.map(
      (tb): KernelCase => ({
        name: `addProduct${ta ? ' a^T' : ''}${tb ? ' b^T' : ''}`,
        inputs: fc
          .tuple(size(), size(), size())
          .map(([m, k, n]) => [{ shape: [m, n] }, { shape: ta ? [k, m] : [m, k] }, { shape: tb ? [n, k] : [k, n] }]),
        fn: (c, a, b) => added(ta, tb)(c as Tensor, a as Tensor, b as Tensor),
        gradient: 'none',
      }),
    ),
  ),
  {
    name: 'matMulBroadcast',
    inputs: anyOf(
      [
        [2, 3, 4],
        [4, 5],
      ],
      [
        [3, 4],
        [2, 4, 5],
      ],
    ),
    fn: (a, b) => tf.matMul(a as Tensor, b as Tensor),
    gradient: 'numeric',
  },
  {
    name: 'matMulEmpty',
    inputs: anyOf(
      [
        [0, 3],
        [3, 2],
      ],
      [
        [2, 0],
        [0, 3],
      ],
      [
        [0, 2, 3],
        [0, 3, 2],
      ],
    ),
    fn: (a, b) => tf.matMul(a as Tensor, b as Tensor),
    gradient: 'none',
  },
  { name: 'dot', inputs: exactly([5], [5]), fn: (a, b) => tf.dot(a as Tensor, b as Tensor) },
  {
    name: 'plexusMatMul',
    inputs: operands(false, false),
    fn: scaled(false, false) as KernelCase['fn'],
    gradient: 'none',
  },
  {
    name: 'plexusMatMul a^T',
    inputs: operands(true, false),
    fn: scaled(true, false) as KernelCase['fn'],
    gradient: 'none',
  },
  {
    name: 'plexusMatMul b^T',
    inputs: operands(false, true),
    fn: scaled(false, true) as KernelCase['fn'],
    gradient: 'none',
  },
  {
    name: 'einsum',
    inputs: exactly([2, 3, 4], [2, 4, 5]),
    fn: (a, b) => tf.einsum('bij,bjk->bik', a as Tensor, b as Tensor),
    gradient: 'numeric',
  },
  {
    name: 'einsumSum',
    inputs: exactly([3, 4], [4, 2]),
    fn: (a, b) => tf.einsum('ij,jk->i', a as Tensor, b as Tensor),
    gradient: 'numeric',
  },
  {
    name: 'layerNorm',
    inputs: anyOf([[4, 8], [8], [8]], [[2, 3, 5], [5], [5]]),
    fn: (x, g, b) => layerNorm(x as Tensor, g as Tensor, b as Tensor),
    tolerance: 5e-5,
  },
  {
    name: 'rmsNorm',
    inputs: anyOf([[4, 8], [8]], [[2, 3, 5], [5]]),
    fn: (x, g) => rmsNorm(x as Tensor, g as Tensor),
    tolerance: 5e-5,
  },
  {
    name: 'crossEntropy',
    inputs: anyOf([[5, 7], { shape: [5], fill: { below: 7 } }], [[1, 2], { shape: [1], fill: { below: 2 } }]),
    fn: (x, labels) => softmaxCrossEntropy(x as Tensor, labels as Tensor),
  },
];
