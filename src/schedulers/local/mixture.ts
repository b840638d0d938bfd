import * as z from 'zod';
import { tf } from '../../engine/index.ts';
import type { TensorsByPath } from './model-function.ts';
import type { LocalObjective, StepChanges } from './objective.ts';
import { registerObjective } from './registry.ts';

/** Settings of `mixture`. */
export interface MixtureOptions {
  /** Share of the client's own part in its mixture; where it adapts, what it begins with. */
  readonly alpha: number;
  /** Whether the share follows its own gradient. */
  readonly adaptive: boolean;
}

/**
 * Each client mixes the common model w with a part v of its own: alpha v + (1 - alpha) w. Every step trains w on its own loss,
 * and v, and alpha if it adapts, on that of the mixture, by plain gradient descent with the step's learning rate (Deng,
 * Kamani and Mahdavi, Adaptive Personalized Federated Learning, 2020, algorithm 1 and equation 6). A client's model is the
 * mixture with what the server has.
 */
export function mixture({ alpha: initial, adaptive }: MixtureOptions): LocalObjective {
  const mixed = (alpha: tf.Tensor, own: tf.Tensor, common: tf.Tensor) =>
    tf.add(common, tf.mul(alpha, tf.sub(own, common)));
  return {
    name: 'mixture',
    tensors: [
      { name: 'own', shape: 'param', scope: 'client', initial: 'start', moves: true },
      { name: 'alpha', shape: [], scope: 'client', initial, moves: true },
    ],
    step: ({ params, tensors, tensor, gradientsAt, lr }): StepChanges => {
      const own = tensors('own');
      const alpha = tensor('alpha');
      const at = (of: TensorsByPath, path: string) => of.get(path) as tf.Tensor;
      const slopes = gradientsAt(
        new Map([...params].map(([path, common]) => [path, mixed(alpha, at(own, path), common)])),
      );
      const next = new Map(
        [...own].map(([path, part]) => [path, tf.sub(part, tf.mul(tf.mul(lr, alpha), at(slopes, path)))]),
      );
      if (!adaptive) return { tensors: { own: next } };
      const slope = [...params]
        .map(([path, common]) => tf.sum(tf.mul(tf.sub(at(own, path), common), at(slopes, path))))
        .reduce((sum, term) => tf.add(sum, term));
      return { tensors: { own: next, alpha: tf.clipByValue(tf.sub(alpha, tf.mul(lr, slope)), 0, 1) } };
    },
    own: (common, { own, alpha }) => mixed(alpha as tf.Tensor, own as tf.Tensor, common),
  };
}

registerObjective({
  name: 'mixture',
  config: z.object({ alpha: z.number().min(0).max(1), adaptive: z.boolean() }),
  make: mixture,
});
