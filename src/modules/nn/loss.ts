import * as tf from '@tensorflow/tfjs-core';
import { softmaxCrossEntropy } from '../../engine/index.ts';
import type { Module } from '../module.ts';
import { withoutGradient } from '../no-gradient.ts';

/** Options of `crossEntropy`. */
export interface CrossEntropyOptions {
  /** When to report the share of right first guesses as the metric `accuracy`. Default `always`. */
  readonly accuracy?: 'always' | 'evaluation' | 'never';
}

/**
 * Mean cross-entropy in nats of integer labels under softmax: logits float32 `[..., classes]`, labels int32 `[...]`, a
 * scalar out. Works for classes `[batch]` and for tokens `[batch, time]`.
 */
export function crossEntropy(options: CrossEntropyOptions = {}): Module {
  const { accuracy = 'always' } = options;
  return {
    kind: 'crossEntropy',
    forward(_params, [logits, labels], ctx) {
      if (!logits || !labels)
        throw new Error('expected logits and labels; the model or the dataset gives fewer tensors');
      if (
        logits.dtype !== 'float32' ||
        labels.dtype !== 'int32' ||
        String(logits.shape.slice(0, -1)) !== String(labels.shape)
      )
        throw new Error(
          `logits must be float32 [..., classes] and labels int32 [...] with the same leading sizes, ` +
            `not ${logits.dtype} [${logits.shape}] and ${labels.dtype} [${labels.shape}]`,
        );
      const flatLogits = tf.reshape(logits, [labels.size, -1]) as tf.Tensor2D;
      const flatLabels = tf.reshape(labels, [labels.size]) as tf.Tensor1D;
      if (accuracy === 'always' || (accuracy === 'evaluation' && !ctx.training))
        ctx.metric(
          'accuracy',
          withoutGradient(() => tf.mean(tf.cast(tf.equal(tf.argMax(flatLogits, 1), flatLabels), 'float32'))),
        );
      return tf.mean(softmaxCrossEntropy(flatLogits, flatLabels));
    },
  };
}

/** Mean squared error of a float32 prediction against a target of the same shape, a scalar out. */
export function meanSquaredError(): Module {
  return {
    kind: 'meanSquaredError',
    forward(_params, [prediction, target]) {
      if (!prediction || !target || String(prediction.shape) !== String(target.shape))
        throw new Error(
          `the prediction [${prediction?.shape}] and the target [${target?.shape}] must have the same shape`,
        );
      return tf.mean(tf.squaredDifference(prediction, tf.cast(target, 'float32')));
    },
  };
}
