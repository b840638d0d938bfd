import type { Tensor } from '@tensorflow/tfjs-core';
import { sizeOf } from '../../../tensor/index.ts';
import { einsumGradient } from '../einsum.ts';
import { tf } from '../tf.ts';
import { gradient, unbroadcast } from './define.ts';

/** Gradients of matrix products. */
export const contractions = [
  gradient('BatchMatMul', { inputs: ['a', 'b'] }, (dy, [a, b], attrs) => {
    const { transposeA, transposeB } = attrs as { transposeA: boolean; transposeB: boolean };
    const by = (x: Tensor, y: Tensor, tx: boolean, ty: boolean, shape: number[]) =>
      unbroadcast(tf.matMul(x, y, tx, ty), shape);
    return {
      a: () => (transposeA ? by(b, dy, transposeB, true, a.shape) : by(dy, b, false, !transposeB, a.shape)),
      b: () => {
        const shared = sizeOf(b.shape.slice(0, -2)) === 1 && sizeOf(a.shape.slice(0, -2)) > 1 && !transposeA;
        // One matrix for the whole batch: its gradient is a single product over all rows.
        const [left, right] = shared ? [rowsOf(a), rowsOf(dy)] : [a, dy];
        const grad = transposeB ? tf.matMul(right, left, true, transposeA) : tf.matMul(left, right, !transposeA, false);
        return unbroadcast(grad, b.shape);
      },
    };
  }),
  gradient('Einsum', { all: true }, (dy, saved, attrs) =>
    Object.fromEntries(saved.map((_, i) => [i, () => einsumGradient(attrs.equation as string, saved, dy, i)])),
  ),
];

function rowsOf(x: Tensor): Tensor {
  const width = x.shape[x.rank - 1] as number;
  return tf.reshape(x, [sizeOf(x.shape.slice(0, -1)), width]);
}
