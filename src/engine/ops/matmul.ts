import type { Tensor } from '@tensorflow/tfjs-core';
import { tf } from '../trace/index.ts';
import { eagerKernel } from './kernel.ts';

// Passes make these; there is no public op.
eagerKernel('PlexusMatMul', (inputs, attrs) => {
  const { a, b } = inputs as { a: Tensor; b: Tensor };
  const { transposeA, transposeB, alpha } = attrs as { transposeA: boolean; transposeB: boolean; alpha: number };
  const product = tf.matMul(a, b, transposeA, transposeB);
  return alpha === 1 ? product : tf.mul(product, alpha);
});

eagerKernel('PlexusAddProduct', (inputs, attrs) => {
  const { a, b, c } = inputs as { a: Tensor; b: Tensor; c: Tensor };
  const { transposeA, transposeB, alpha } = attrs as { transposeA: boolean; transposeB: boolean; alpha: number };
  const product = tf.matMul(a, b, transposeA, transposeB);
  return alpha === -1 ? tf.sub(c, product) : tf.add(c, tf.mul(product, alpha));
});
