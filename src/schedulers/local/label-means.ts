import * as z from 'zod';
import { tf } from '../../engine/index.ts';
import type { TaskInfo } from '../../modules/index.ts';
import type { LocalObjective } from './objective.ts';
import { registerObjective } from './registry.ts';

/** Settings of `labelMeans`. */
export interface LabelMeansOptions {
  /** Weight of the distillation term. */
  readonly gamma: number;
  /** Whether parameters are averaged too; if not, every client has a model of its own and only means are sent. */
  readonly share: boolean;
}

/**
 * Clients tell each other the mean of their outputs for each class, taken over the steps of their training, and learn from the
 * others' means: gamma times the cross-entropy between softmax(the mean over the other clients for the example's class)
 * and softmax(the outputs) is added to the loss (Jeong, Oh, Kim, Park, Bennis and Kim, Federated Distillation, 2018, section
 * 2.1 and algorithm 1).
 * `round` tensors: `sums` `[classes, classes]`, the clients' means added up, and `counts` `[classes]`, how many of them have the class.
 */
export function labelMeans({ gamma, share }: LabelMeansOptions): LocalObjective {
  const square = (info: TaskInfo) => [classesOf(info), classesOf(info)];
  const row = (info: TaskInfo) => [classesOf(info)];
  return {
    name: 'label-means',
    tensors: [
      { name: 'sums', shape: square, scope: 'round' },
      { name: 'counts', shape: row, scope: 'round' },
      { name: 'means', shape: square, scope: 'client', sent: true },
      { name: 'seen', shape: row, scope: 'client', sent: true },
      { name: 'total', shape: square, scope: 'fit', moves: true },
      { name: 'number', shape: row, scope: 'fit', moves: true },
    ],
    loss: ({ forward, targets, tensor, modelLoss }) => {
      const logits = forward.outputs[0] as tf.Tensor2D;
      const labels = oneHot(targets[0] as tf.Tensor, logits);
      // All clients but this one.
      const others = tf.sub(tensor('counts'), tensor('seen'));
      const teacher = tf.div(
        tf.sub(tensor('sums'), tensor('means')),
        tf.reshape(tf.maximum(others, 1), [-1, 1]),
      ) as tf.Tensor2D;
      const known = tf.cast(tf.greater(others, 0.5), 'float32');
      const wanted = tf.softmax(tf.matMul(labels, teacher));
      const each = tf.neg(tf.sum(tf.mul(wanted, tf.logSoftmax(logits)), 1));
      const counts = tf.sum(tf.mul(labels, known), 1);
      return tf.add(modelLoss(forward.outputs, targets), tf.mul(tf.mean(tf.mul(each, counts)), gamma));
    },
    step: ({ forward, targets, tensor }) => {
      const logits = forward.outputs[0] as tf.Tensor2D;
      const labels = oneHot(targets[0] as tf.Tensor, logits);
      return {
        tensors: {
          total: tf.add(tensor('total'), tf.matMul(labels, logits, true)),
          number: tf.add(tensor('number'), tf.sum(labels, 0)),
        },
      };
    },
    finish: ({ total, number }) => ({
      means: tf.div(total as tf.Tensor, tf.reshape(tf.maximum(number as tf.Tensor, 1), [-1, 1])),
      seen: tf.cast(tf.greater(number as tf.Tensor, 0.5), 'float32'),
    }),
    personal: () => !share,
  };
}

/** Number of classes. @throws Error if the task has none, or not one for each example */
export function classesOf({ classes, targets }: TaskInfo): number {
  const [target] = targets;
  if (classes === undefined || target?.shape.length !== 0)
    throw new Error('distillation between clients goes by the class of each example, which the dataset does not have');
  return classes;
}

function oneHot(labels: tf.Tensor, { shape: [, classes] }: tf.Tensor2D): tf.Tensor2D {
  return tf.cast(tf.oneHot(labels as tf.Tensor1D, classes), 'float32') as tf.Tensor2D;
}

registerObjective({
  name: 'label-means',
  config: z.object({ gamma: z.number().min(0), share: z.boolean() }),
  make: labelMeans,
});
