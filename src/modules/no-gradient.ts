import * as tf from '@tensorflow/tfjs-core';

/**
 * Runs `fn` off the gradient tape: its results are constants to the gradient. Routing decisions (which expert, which
 * row) need it, because tfjs has no gradient for top-k and would refuse any path through it, even one that ends in
 * integers. tfjs stops taping inside a kernel; this counts as one.
 */
export function withoutGradient<T extends tf.TensorContainer>(fn: () => T): T {
  const state = tf.engine().state;
  state.kernelDepth += 1;
  try {
    return fn();
  } finally {
    state.kernelDepth -= 1;
  }
}
