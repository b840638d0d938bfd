import { softmaxCrossEntropy, tf } from '../../engine/index.ts';
import { type Layer, type Model, type Module, withoutGradient } from '../../modules/index.ts';
import type { LossGiven, StrategyLoss } from './strategy.ts';

type Tensor = tf.Tensor;

/** Metric that has the logits of every example, in evaluations. */
export const OUTPUTS = 'outputs';

/** Metric that has what `withFeatures` shows of every example, in evaluations. */
export const FEATURES = 'features';

/** A model whose last layer also shows the loss what goes into it: the features that it classifies by. */
export function withFeatures(model: Model): Model {
  const last = model.layers.at(-1) as Layer;
  const module: Module = {
    ...last.module,
    forward: (params, inputs, ctx) => {
      const outputs = last.module.forward(params, inputs, ctx);
      const [features] = inputs;
      if (inputs.length !== 1 || features?.rank !== 2)
        throw new Error(
          `features of examples are what goes into the last layer, which must be one tensor [examples, width], not ` +
            `${inputs.map(({ shape }) => `[${shape}]`).join(', ')}: use a model whose last layer is the classifier alone, mlp say`,
        );
      return [...(Array.isArray(outputs) ? (outputs as Tensor[]) : [outputs as Tensor]), features];
    },
  };
  return { ...model, layers: [...model.layers.slice(0, -1), { ...last, module }] };
}

/** Metrics of each example of text, in evaluations: the mean loss of its tokens, and how many of them were predicted right. */
export const TOKEN_LOSS = 'token_loss';
export const TOKENS_RIGHT = 'tokens_right';

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
 * the strategy's. In evaluations it reports the logits of every example. Of text each token is an example to the strategy's loss,
 * with the weight and marks of its window.
 */
export function streamLoss(loss: StrategyLoss, own: readonly string[], datasetTargets: number): Module {
  // Weight, mask and the strategy's.
  const added = own.length + 2;
  return {
    kind: 'streamLoss',
    ...(loss.state ? { state: loss.state } : {}),
    forward(_params, inputs, ctx) {
      const [outputs, features] = inputs.slice(0, -(datasetTargets + added));
      const classes = inputs.at(-(datasetTargets + added));
      const given = inputs.slice(-added);
      if (!outputs || !classes || given.length < 2 || String(outputs.shape.slice(0, -1)) !== String(classes.shape))
        throw new Error(
          `continual strategies need logits [examples, outputs] (of text [examples, tokens, outputs]) and the targets of a task ` +
            `sequence, but the model gives [${outputs?.shape}]`,
        );
      const width = outputs.shape.at(-1) as number;
      if (width !== given[1]?.shape[1])
        throw new Error(
          `the tasks have ${given[1]?.shape[1]} outputs, but the model has ${width}: give it as many, or use a zoo model`,
        );
      const tokens = outputs.rank === 3;
      const [weights, mask, ...mine] = (tokens ? rowsOfTokens(given, classes) : given) as [Tensor, Tensor, ...Tensor[]];
      const logits = tokens ? tf.reshape(outputs, [-1, width]) : outputs;
      const labels = tokens ? tf.reshape(classes, [-1]) : classes;
      if (!ctx.training && tokens) {
        const of = (values: Tensor) => tf.reshape(values, classes.shape);
        ctx.metric(TOKEN_LOSS, tf.mean(of(crossEntropies({ logits, labels, mask })), 1));
        ctx.metric(TOKENS_RIGHT, tf.sum(of(tf.cast(tf.equal(tf.argMax(logits, 1), labels), 'float32')), 1));
      } else if (!ctx.training) {
        ctx.metric(OUTPUTS, logits);
        if (features) ctx.metric(FEATURES, features);
      }
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
        ...(features ? { features } : {}),
        state: ctx.state,
        contribute: (name, value) => ctx.contribute(name, value),
      });
    },
  };
}

/** Weights, mask and marks of windows of text for each of their tokens, one behind the other. All outputs take part. */
function rowsOfTokens([weights, mask, ...mine]: readonly Tensor[], { shape }: Tensor): Tensor[] {
  const each = (values: Tensor) => {
    if (values.rank !== 1) throw new Error('strategies whose targets are not numbers do not work for text');
    const all = tf.zeros([1, shape[1] as number], values.dtype as 'float32' | 'int32');
    return tf.reshape(tf.add(tf.expandDims(values, 1), all), [-1]);
  };
  return [each(weights as Tensor), tf.zeros([1, mask?.shape[1] as number]), ...mine.map(each)];
}
