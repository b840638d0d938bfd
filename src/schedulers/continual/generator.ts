import { tf } from '../../engine/index.ts';
import { type Layer, type Model, type Module, nn } from '../../modules/index.ts';

type Tensor = tf.Tensor;

/** Sizes of a generator. */
export interface GeneratorOptions {
  /** Numbers of an input. */
  readonly inputs: number;
  readonly hidden: number;
  readonly latent: number;
  /** Standard deviation of inputs around what is drawn. */
  readonly deviation: number;
}

/** Metric of the first layer that has what is drawn, in evaluations. */
export const GENERATED = 'generated';

function perceptron(sizes: readonly number[]): Module {
  const parts = sizes
    .slice(1)
    .flatMap((size, i): [string, Module][] => [
      ...(i > 0 ? [[`activation${i}`, nn.activation('relu')] as [string, Module]] : []),
      [`linear${i}`, nn.linear(sizes[i] as number, size)],
    ]);
  return nn.sequential(Object.fromEntries(parts));
}

/** Standard normal numbers from two uniform ones each (Box and Muller). */
function normals(first: Tensor, second: Tensor): Tensor {
  const radius = tf.sqrt(tf.mul(tf.log(tf.sub(1, first)), -2));
  return tf.mul(radius, tf.cos(tf.mul(second, 2 * Math.PI)));
}

/**
 * A variational autoencoder (Kingma and Welling, Auto-encoding variational Bayes, 2014, equation 10) that is trained on whatever it is
 * given, by a loss of its own per number of an input. In evaluations it takes the first numbers of an input for a latent vector, and
 * reports what that stands for.
 */
function autoencoder({ inputs, hidden, latent, deviation }: GeneratorOptions): Module {
  return {
    kind: 'autoencoder',
    children: {
      encode: perceptron([inputs, hidden, hidden, 2 * latent]),
      decode: perceptron([latent, hidden, hidden, inputs]),
    },
    forward(_params, [x], ctx) {
      const examples = x?.shape[0] as number;
      const flat = tf.reshape(x as Tensor, [examples, inputs]);
      if (!ctx.training) {
        ctx.metric(GENERATED, ctx.run('decode', tf.slice(flat, [0, 0], [examples, latent])));
        return flat;
      }
      const [mean, logVariance] = tf.split(ctx.run('encode', flat), 2, 1) as [Tensor, Tensor];
      const noise = normals(ctx.uniform([examples, latent]), ctx.uniform([examples, latent]));
      const drawn = tf.add(mean, tf.mul(tf.exp(tf.div(logVariance, 2)), noise));
      const distance = tf.sum(tf.squaredDifference(ctx.run('decode', drawn), flat), 1);
      const divergence = tf.sum(tf.sub(tf.add(tf.square(mean), tf.exp(logVariance)), tf.add(logVariance, 1)), 1);
      const bound = tf.add(tf.div(distance, deviation ** 2), divergence);
      ctx.addLoss('bound', tf.div(tf.mean(bound), 2 * inputs));
      return flat;
    },
  };
}

/** A model with a generator of its inputs beside its first layer, at child `generator`. The two have nothing in common but inputs. */
export function withGenerator(model: Model, options: GeneratorOptions): Model {
  const [first, ...rest] = model.layers as readonly [Layer, ...Layer[]];
  const inner = first.module;
  const module: Module = {
    ...inner,
    children: { ...inner.children, generator: autoencoder(options) },
    forward: (params, inputs, ctx) => {
      ctx.runAll('generator', inputs);
      return inner.forward(params, inputs, ctx);
    },
  };
  return { ...model, layers: [{ ...first, module }, ...rest] };
}
