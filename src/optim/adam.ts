import * as tf from '@tensorflow/tfjs-core';
import { powInteger } from '../tensor/index.ts';
import { type GroupOf, type GroupSettings, groupKeyOf, type Optimizer } from './optimizer.ts';
import type { OptimConfigOf } from './schema.ts';
import { decayed, scaled } from './sgd.ts';

/** What the Adam family needs to know. */
export interface AdamSettings {
  readonly betas: readonly [number, number];
  readonly eps: number;
  /** Weight decay shrinks weights directly (AdamW) instead of being added to the gradient (Adam). */
  readonly decoupled: boolean;
}

/** Slots of Adam: running means of the gradient and of its square. */
export const ADAM_SLOTS = ['mean', 'square'] as const;

/**
 * Scalars of `adamUpdate` at a step (from 1): the learning rate, the rate with both bias corrections folded in, and eps
 * scaled to go with them: lr / c1 * m / (sqrt(v / c2) + eps) = lr sqrt(c2) / c1 * m / (sqrt(v) + eps sqrt(c2)).
 */
export function adamScalars({ betas, eps }: AdamSettings, lr: number, step: number): readonly number[] {
  const root = Math.sqrt(1 - powInteger(betas[1], step));
  return [lr, (lr * root) / (1 - powInteger(betas[0], step)), eps * root];
}

/** Adam's update (Kingma and Ba 2015), or AdamW's (Loshchilov and Hutter 2019): the new parameter and slots. */
export function adamUpdate(
  { betas, decoupled }: AdamSettings,
  group: GroupSettings,
  param: tf.Tensor,
  grad: tf.Tensor,
  slots: readonly tf.Tensor[],
  scalars: readonly tf.Tensor[],
): readonly tf.Tensor[] {
  const [mean, square] = slots as readonly [tf.Tensor, tf.Tensor];
  const [lr, rate, eps] = scalars as readonly [tf.Tensor, tf.Tensor, tf.Tensor];
  const g = decoupled || group.weightDecay === 0 ? grad : tf.add(grad, tf.mul(param, group.weightDecay));
  const nextMean = tf.add(tf.mul(mean, betas[0]), tf.mul(g, 1 - betas[0]));
  const nextSquare = tf.add(tf.mul(square, betas[1]), tf.mul(tf.square(g), 1 - betas[1]));
  const direction = tf.div(nextMean, tf.add(tf.sqrt(nextSquare), eps));
  const kept = decoupled ? decayed(param, scaled(lr, group.lr), group.weightDecay) : param;
  return [tf.sub(kept, tf.mul(direction, scaled(rate, group.lr))), nextMean, nextSquare];
}

/** Adam and AdamW. */
export function adam(config: OptimConfigOf<'adam'> | OptimConfigOf<'adamw'>, groupOf: GroupOf): Optimizer {
  const settings: AdamSettings = { betas: config.betas, eps: config.eps, decoupled: config.name === 'adamw' };
  return {
    name: config.name,
    slots: () => ADAM_SLOTS,
    scalars: (lr, step) => adamScalars(settings, lr, step),
    groupKey: (param) => groupKeyOf(groupOf(param)),
    update: (param, grad, slots, scalars, info) => adamUpdate(settings, groupOf(info), param, grad, slots, scalars),
  };
}
