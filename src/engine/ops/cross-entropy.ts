import type { Tensor } from '@tensorflow/tfjs-core';
import { EngineError } from '../errors.ts';
import { tf } from '../trace/index.ts';
import { eagerKernel, kernelGradient, runKernel, runKernelAll } from './kernel.ts';

eagerKernel('PlexusSoftmaxCrossEntropy', (inputs) => {
  const { logits, labels } = inputs as { logits: Tensor; labels: Tensor };
  const [rows, classes] = logits.shape as [number, number];
  const logProbs = tf.logSoftmax(logits, -1);
  return [tf.neg(tf.gather(tf.reshape(logProbs, [rows * classes]), flatLabels(labels, rows, classes))), logProbs];
});
eagerKernel('PlexusSoftmaxCrossEntropyGrad', (inputs) => {
  const { dy, logProbs, labels } = inputs as { dy: Tensor; logProbs: Tensor; labels: Tensor };
  const classes = logProbs.shape[1] as number;
  const hits = tf.equal(tf.expandDims(labels, 1), tf.range(0, classes, 1, 'int32'));
  return tf.mul(tf.sub(tf.exp(logProbs), tf.cast(hits, 'float32')), tf.expandDims(dy, 1));
});
kernelGradient(
  'PlexusSoftmaxCrossEntropy',
  { inputs: ['labels'], outputs: [false, true] },
  ([dy], [labels, logProbs]) => ({
    logits: () =>
      runKernel('PlexusSoftmaxCrossEntropyGrad', {
        dy: dy as Tensor,
        logProbs: logProbs as Tensor,
        labels: labels as Tensor,
      }),
  }),
);

function flatLabels(labels: Tensor, rows: number, classes: number): Tensor {
  const offsets = tf.tensor1d(
    Int32Array.from({ length: rows }, (_, i) => i * classes),
    'int32',
  );
  return tf.add(labels, offsets);
}

/**
 * Cross-entropy of softmax(logits) against integer labels, without a one-hot tensor: `logits` float32 `[n, classes]`,
 * `labels` int32 `[n]` in [0, classes), losses float32 `[n]`.
 */
export function softmaxCrossEntropy(logits: Tensor, labels: Tensor): Tensor {
  if (logits.rank !== 2 || labels.rank !== 1 || labels.dtype !== 'int32' || labels.shape[0] !== logits.shape[0])
    throw new EngineError(
      `softmaxCrossEntropy takes logits [n, classes] and int32 labels [n], got [${logits.shape}] and ${labels.dtype} [${labels.shape}]; reshape sequences to rows first`,
    );
  return runKernelAll('PlexusSoftmaxCrossEntropy', { logits, labels })[0] as Tensor;
}
