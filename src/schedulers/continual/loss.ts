import { softmaxCrossEntropy, tf } from '../../engine/index.ts';
import { type Module, withoutGradient } from '../../modules/index.ts';
import type { LossGiven, StrategyLoss } from './strategy.ts';

type Tensor = tf.Tensor;

/** Metric that has the logits of every example, in evaluations. */
export const OUTPUTS = 'outputs';

/** Cross entropy of each example `[micro]` over the outputs that take part. */
export function crossEntropies({ logits, labels, mask }: Pick<LossGiven, 'logits' | 'labels' | 'mask'>): Tensor {
  return softmaxCrossEntropy(tf.add(logits, mask) as tf.Tensor2D, labels as tf.Tensor1D);
}

/** The loss of naive fine-tuning: weighted cross entropy over the outputs that take part. */
export const plainLoss: StrategyLoss = {
  of: (given) => tf.mean(tf.mul(given.weights, crossEntropies(given))),
};

/**
 * A loss module that takes a stream's targets: the dataset's own (classes, then others, which it leaves alone), weights, mask,
 * the strategy's. In evaluations it reports the logits of every example.
 */
export function streamLoss(loss: StrategyLoss, own: readonly string[], datasetTargets: number): Module {
  return {
    kind: 'streamLoss',
    ...(loss.state ? { state: loss.state } : {}),
    forward(_params, [logits, labels, ...rest], ctx) {
      const [weights, mask, ...mine] = rest.slice(datasetTargets - 1);
      if (!logits || !labels || !weights || !mask || logits.rank !== 2)
        throw new Error(
          `continual strategies need logits [examples, outputs] and the targets of a task sequence, but the model gives [${logits?.shape}]`,
        );
      if (logits.shape[1] !== mask.shape[1])
        throw new Error(
          `the tasks have ${mask.shape[1]} outputs, but the model has ${logits.shape[1]}: give it as many, or use a zoo model`,
        );
      if (!ctx.training) ctx.metric('outputs', logits);
      ctx.metric(
        'accuracy',
        withoutGradient(() =>
          tf.mean(tf.cast(tf.equal(tf.argMax(tf.add(logits, mask), 1), tf.cast(labels, 'int32')), 'float32')),
        ),
      );
      const targets = Object.fromEntries(own.map((name, i) => [name, mine[i] as Tensor]));
      return loss.of({
        logits,
        labels,
        weights,
        mask,
        targets,
        state: ctx.state,
        contribute: (name, value) => ctx.contribute(name, value),
      });
    },
  };
}
