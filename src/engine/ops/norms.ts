import type { Tensor } from '@tensorflow/tfjs-core';
import { EngineError } from '../errors.ts';
import { tf } from '../trace/index.ts';
import { eagerKernel, kernelGradient, runKernelAll } from './kernel.ts';

eagerKernel('PlexusLayerNorm', (inputs, attrs) => {
  const { x, gain, bias } = inputs as { x: Tensor; gain: Tensor; bias: Tensor };
  const mean = tf.mean(x, -1, true);
  const centred = tf.sub(x, mean);
  const inverse = tf.rsqrt(tf.add(tf.mean(tf.square(centred), -1, true), attrs.epsilon as number));
  return [tf.add(tf.mul(tf.mul(centred, inverse), gain), bias), mean, inverse];
});
kernelGradient('PlexusLayerNorm', { inputs: ['x', 'gain'], outputs: [false, true, true] }, ([dy], saved) => {
  const [x, gain, mean, inverse] = saved as [Tensor, Tensor, Tensor, Tensor];
  const normal = tf.mul(tf.sub(x, mean), inverse);
  return {
    x: () => {
      const slope = tf.mul(dy as Tensor, gain);
      const along = tf.mean(tf.mul(slope, normal), -1, true);
      return tf.mul(tf.sub(tf.sub(slope, tf.mean(slope, -1, true)), tf.mul(normal, along)), inverse);
    },
    gain: () => sumRows(tf.mul(dy as Tensor, normal)),
    bias: () => sumRows(dy as Tensor),
  };
});

eagerKernel('PlexusRmsNorm', (inputs, attrs) => {
  const { x, gain } = inputs as { x: Tensor; gain: Tensor };
  const inverse = tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), attrs.epsilon as number));
  return [tf.mul(tf.mul(x, inverse), gain), inverse];
});
kernelGradient('PlexusRmsNorm', { inputs: ['x', 'gain'], outputs: [false, true] }, ([dy], saved) => {
  const [x, gain, inverse] = saved as [Tensor, Tensor, Tensor];
  const normal = tf.mul(x, inverse);
  return {
    x: () => {
      const slope = tf.mul(dy as Tensor, gain);
      const along = tf.mean(tf.mul(slope, normal), -1, true);
      return tf.mul(tf.sub(slope, tf.mul(normal, along)), inverse);
    },
    gain: () => sumRows(tf.mul(dy as Tensor, normal)),
  };
});

function sumRows(x: Tensor): Tensor {
  return tf.sum(
    x,
    Array.from({ length: x.rank - 1 }, (_, i) => i),
  );
}

function checkGain(name: string, x: Tensor, gain: Tensor): void {
  if (x.rank === 0 || gain.rank !== 1 || gain.shape[0] !== x.shape[x.rank - 1])
    throw new EngineError(
      `${name}: gain and bias must have the size of the last axis of x [${x.shape}], got [${gain.shape}]`,
    );
}

/**
 * Layer normalization over the last axis (Ba et al. 2016, arXiv:1607.06450): x float32 `[..., d]`, gain and bias `[d]`.
 */
export function layerNorm(x: Tensor, gain: Tensor, bias: Tensor, epsilon = 1e-5): Tensor {
  checkGain('layerNorm', x, gain);
  checkGain('layerNorm', x, bias);
  return runKernelAll('PlexusLayerNorm', { x, gain, bias }, { epsilon })[0] as Tensor;
}

/**
 * Root-mean-square normalization over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467): x float32 `[..., d]`,
 * gain `[d]`.
 */
export function rmsNorm(x: Tensor, gain: Tensor, epsilon = 1e-5): Tensor {
  checkGain('rmsNorm', x, gain);
  return runKernelAll('PlexusRmsNorm', { x, gain }, { epsilon })[0] as Tensor;
}
