import * as z from 'zod';
import { tf } from '../../engine/index.ts';
import { pathMatcher } from '../../optim/index.ts';
import { type LocalObjective, plainObjective } from './objective.ts';
import { registerObjective } from './registry.ts';

/** A proximal term: mu / 2 times the squared distance to where the fit began (Li et al., FedProx, 2020, equation 2). */
export function proximal(mu: number): LocalObjective {
  return {
    name: 'proximal',
    tensors: [{ name: 'anchor', shape: 'param', scope: 'start' }],
    penalty: (param, { anchor }) => tf.mul(tf.sum(tf.square(tf.sub(param, anchor as tf.Tensor))), mu / 2),
  };
}

/**
 * Gradients corrected by the difference of the server's control variate and the client's own, which is renewed from the way
 * that the fit has gone (Karimireddy et al., SCAFFOLD, 2020, algorithm 1, option II). With momentum a fit goes further than its
 * steps' number times the learning rate, so the way is divided by its length: variates stay means of gradients, as in the paper, where there
 * is none.
 */
export function controlVariates(): LocalObjective {
  return {
    name: 'control-variates',
    tensors: [
      { name: 'server', shape: 'param', scope: 'round' },
      { name: 'own', shape: 'param', scope: 'client', sent: true },
    ],
    transform: (gradient, _, { server, own }) => tf.add(gradient, tf.sub(server as tf.Tensor, own as tf.Tensor)),
    after: ({ start, param, tensors, length, lr }) => ({
      own: tf.add(
        tf.sub(tensors.own as tf.Tensor, tensors.server as tf.Tensor),
        tf.div(tf.sub(start, param), tf.mul(length, lr)),
      ),
    }),
  };
}

/**
 * A linear term that remembers where earlier fits of the client went, and a proximal one (Acar et al., FedDyn, 2021,
 * algorithm 1): loss - <h, w> + alpha / 2 |w - start|^2, then h = h - alpha (w - start).
 */
export function dynamic(alpha: number): LocalObjective {
  return {
    name: 'dynamic',
    tensors: [
      { name: 'anchor', shape: 'param', scope: 'start' },
      { name: 'own', shape: 'param', scope: 'client' },
    ],
    penalty: (param, { anchor, own }) =>
      tf.sub(
        tf.mul(tf.sum(tf.square(tf.sub(param, anchor as tf.Tensor))), alpha / 2),
        tf.sum(tf.mul(own as tf.Tensor, param)),
      ),
    after: ({ start, param, tensors }) => ({
      own: tf.sub(tensors.own as tf.Tensor, tf.mul(tf.sub(param, start), alpha)),
    }),
  };
}

/** Parameters and module state of these paths (`*` for any characters) stay with whose data it is. */
export function personalLayers(paths: readonly string[]): LocalObjective {
  const matchers = paths.map(pathMatcher);
  return { name: 'personal-layers', personal: ({ path }) => matchers.some((matches) => matches(path)) };
}

registerObjective({ name: 'none', config: z.object({}), make: () => plainObjective });
registerObjective({ name: 'proximal', config: z.object({ mu: z.number().min(0) }), make: ({ mu }) => proximal(mu) });
registerObjective({ name: 'control-variates', config: z.object({}), make: controlVariates });
registerObjective({
  name: 'dynamic',
  config: z.object({ alpha: z.number().positive() }),
  make: ({ alpha }) => dynamic(alpha),
});
registerObjective({
  name: 'personal-layers',
  config: z.object({ paths: z.array(z.string()) }),
  make: ({ paths }) => personalLayers(paths),
});
