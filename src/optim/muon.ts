import * as tf from '@tensorflow/tfjs-core';
import type { Shape } from '../tensor/index.ts';
import { ADAM_SLOTS, type AdamSettings, adamScalars, adamUpdate } from './adam.ts';
import { pathMatcher } from './glob.ts';
import { type GroupOf, groupKeyOf, type Optimizer, type ParamInfo } from './optimizer.ts';
import type { OptimConfigOf } from './schema.ts';
import { decayed, scaled } from './sgd.ts';

/**
 * Nearest semi-orthogonal matrix, roughly: a quintic Newton-Schulz iteration that drives all singular values to about 1
 * (0.7 to 1.2 after five steps; coefficients of Jordan et al. 2024, which trade exactness for speed). In float32.
 * @param matrix `[rows, columns]`
 */
export function orthogonalise(matrix: tf.Tensor2D, steps: number): tf.Tensor2D {
  // The Gram matrix is made on the shorter side.
  const tall = matrix.shape[0] > matrix.shape[1];
  let x = tf.div(matrix, tf.add(tf.sqrt(tf.sum(tf.square(matrix))), 1e-7)) as tf.Tensor2D;
  for (let i = 0; i < steps; i++) {
    const gram = tf.matMul(x, x, tall, !tall) as tf.Tensor2D;
    const poly = tf.add(tf.mul(gram, -4.775), tf.mul(tf.matMul(gram, gram), 2.0315)) as tf.Tensor2D;
    x = tf.add(tf.mul(x, 3.4445), tall ? tf.matMul(x, poly) : tf.matMul(poly, x)) as tf.Tensor2D;
  }
  return x;
}

/**
 * Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum m = mu m + (1 - mu) g, look-ahead
 * (1 - mu) g + mu m, orthogonalised, scaled, applied with decoupled weight decay. For matrices that the modules allow
 * weight decay on, except embeddings and heads; everything else is updated by AdamW.
 */
export function muon(config: OptimConfigOf<'muon'>, groupOf: GroupOf): Optimizer {
  const { momentum, nesterov } = config;
  const others = config.adamw.map(pathMatcher);
  const adamw: AdamSettings = { betas: config.betas, eps: config.eps, decoupled: true };
  const isHiddenMatrix = ({ shape, decay, path }: ParamInfo) =>
    shape.length === 2 && decay && !others.some((matches) => matches(path));
  return {
    name: 'muon',
    slots: (param) => (isHiddenMatrix(param) ? ['momentum'] : ADAM_SLOTS),
    scalars: (lr, step) => [...adamScalars(adamw, lr, step)],
    groupKey: (param) => `${isHiddenMatrix(param) ? 'muon' : 'adamw'} ${groupKeyOf(groupOf(param))}`,
    update(param, grad, slots, scalars, info) {
      const group = groupOf(info);
      if (!isHiddenMatrix(info))
        return adamUpdate(adamw, { ...group, lr: group.lr * config.adamw_lr }, param, grad, slots, scalars);
      const [velocity] = slots as readonly [tf.Tensor];
      const next = tf.add(tf.mul(velocity, momentum), tf.mul(grad, 1 - momentum));
      const direction = nesterov ? tf.add(tf.mul(grad, 1 - momentum), tf.mul(next, momentum)) : next;
      const update = orthogonalise(direction as tf.Tensor2D, config.ns_steps);
      const rate = scaled(scalars[0] as tf.Tensor, group.lr);
      const step = tf.mul(update, tf.mul(rate, adjustment(config.adjust, info.shape)));
      return [tf.sub(decayed(param, rate, group.weightDecay), step), next];
    },
  };
}

/** Factor on the orthogonal update of an [in, out] matrix. */
function adjustment(kind: OptimConfigOf<'muon'>['adjust'], shape: Shape): number {
  const [inputs, outputs] = shape as readonly [number, number];
  return kind === 'original' ? Math.sqrt(Math.max(1, outputs / inputs)) : 0.2 * Math.sqrt(Math.max(inputs, outputs));
}
