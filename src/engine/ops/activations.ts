import type { Tensor } from '@tensorflow/tfjs-core';
import { tf } from '../trace/index.ts';
import { eagerKernel, kernelGradient, runKernel } from './kernel.ts';

/** Which GELU: the exact one, or the one with tanh. */
export type GeluApproximation = 'none' | 'tanh';

/** sqrt(2 / pi), of the tanh approximation. */
export const GELU_SCALE = Math.sqrt(2 / Math.PI);
/** The cubic coefficient of the tanh approximation. */
export const GELU_CUBIC = 0.044715;

eagerKernel('PlexusGelu', (inputs, attrs) => {
  const x = inputs.x as Tensor;
  return tf.mul(tf.mul(x, 0.5), tf.add(attrs.approximate === 'tanh' ? tanhOf(x) : tf.erf(tf.mul(x, Math.SQRT1_2)), 1));
});
eagerKernel('PlexusGeluGrad', (inputs, attrs) => {
  const { dy, x } = inputs as { dy: Tensor; x: Tensor };
  if (attrs.approximate === 'tanh') {
    const t = tanhOf(x);
    const inner = tf.mul(tf.add(tf.mul(tf.square(x), 3 * GELU_CUBIC), 1), GELU_SCALE);
    const slope = tf.mul(tf.mul(tf.mul(x, 0.5), tf.sub(1, tf.square(t))), inner);
    return tf.mul(dy, tf.add(tf.mul(tf.add(t, 1), 0.5), slope));
  }
  const cdf = tf.mul(tf.add(tf.erf(tf.mul(x, Math.SQRT1_2)), 1), 0.5);
  const pdf = tf.mul(tf.exp(tf.mul(tf.square(x), -0.5)), 1 / Math.sqrt(2 * Math.PI));
  return tf.mul(dy, tf.add(cdf, tf.mul(x, pdf)));
});
kernelGradient('PlexusGelu', { inputs: ['x'] }, ([dy], [x], attrs) => ({
  x: () => runKernel('PlexusGeluGrad', { dy: dy as Tensor, x: x as Tensor }, attrs),
}));

function tanhOf(x: Tensor): Tensor {
  return tf.tanh(tf.mul(tf.add(x, tf.mul(tf.mul(x, tf.square(x)), GELU_CUBIC)), GELU_SCALE));
}

eagerKernel('PlexusSilu', (inputs) => tf.mul(inputs.x as Tensor, tf.sigmoid(inputs.x as Tensor)));
eagerKernel('PlexusSiluGrad', (inputs) => {
  const { dy, x } = inputs as { dy: Tensor; x: Tensor };
  const s = tf.sigmoid(x);
  return tf.mul(dy, tf.mul(s, tf.add(tf.mul(x, tf.sub(1, s)), 1)));
});
kernelGradient('PlexusSilu', { inputs: ['x'] }, ([dy], [x]) => ({
  x: () => runKernel('PlexusSiluGrad', { dy: dy as Tensor, x: x as Tensor }),
}));

/** Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415) of a float32 tensor of any shape. */
export function gelu(x: Tensor, approximate: GeluApproximation = 'none'): Tensor {
  return runKernel('PlexusGelu', { x }, { approximate });
}

/** `x * sigmoid(x)` (Elfwing et al. 2017, arXiv:1702.03118) of a float32 tensor of any shape. */
export function silu(x: Tensor): Tensor {
  return runKernel('PlexusSilu', { x });
}
