import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import * as init from '../init.ts';
import type { Initializer, Module } from '../module.ts';
import { withoutGradient } from '../no-gradient.ts';
import { param } from '../param.ts';
import { withGradient } from './dispatch.ts';
import { lastAxis } from './linear.ts';
import { scan } from './recurrent.ts';

/** Options of `leakyIntegrateAndFire`. */
export interface SpikingOptions {
  /** What is left of the membrane's potential after a time step. Default 0.5. */
  readonly decay?: number;
  /** Potential from which on a neuron fires. Default 1. */
  readonly threshold?: number;
  /** Steepness of the sigmoid whose slope stands for that of the spike. Default 4. */
  readonly steepness?: number;
  readonly init?: Initializer;
}

/**
 * `x · weight` whose weight gradient takes the presynaptic part from `trace` in place of x: traceᵀ · dy. float32 `[rows, in]` and
 * `[in, out]` → `[rows, out]`; `trace` is like x and gets no gradient.
 */
export function productWithTrace(x: Tensor, trace: Tensor, weight: Tensor): Tensor {
  const gradient = tf.customGrad((input, matrix, save) => {
    (save as tf.GradSaveFunc)([trace, matrix as Tensor]);
    return {
      value: tf.matMul(input as tf.Tensor2D, matrix as tf.Tensor2D),
      gradFunc: (dy: Tensor, saved: Tensor[]) => {
        const [before, own] = saved as [tf.Tensor2D, tf.Tensor2D];
        return [tf.matMul(dy as tf.Tensor2D, own, false, true), tf.matMul(before, dy as tf.Tensor2D, true, false)];
      },
    };
  });
  return gradient(x, weight);
}

/**
 * What spikes bring about in the next neurons, over the last axis: (x, trace) → `x · weight + bias`, both `[..., in]`. The gradient of
 * `weight` is made of the trace, that of x as ever.
 */
export function synapses(inputs: number, outputs: number, options: Pick<SpikingOptions, 'init'> = {}): Module {
  return {
    kind: 'synapses',
    params: {
      weight: param([inputs, outputs], options.init ?? init.kaimingNormal()),
      bias: param([outputs], init.zeros),
    },
    forward({ weight, bias }, [input, trace = input]) {
      const x = lastAxis(input, inputs);
      const rows = (each: Tensor): Tensor => tf.reshape(each, [-1, inputs]);
      const current = productWithTrace(rows(x), rows(trace as Tensor), weight as Tensor);
      return tf.reshape(tf.add(current, bias), [...x.shape.slice(0, -1), outputs]);
    },
  };
}

/** 1 where the potential has reached the threshold; its gradient is the slope of a sigmoid there (Neftci, Mostafa and Zenke 2019). */
export function spike(potential: Tensor, threshold: number, steepness: number): Tensor {
  return withGradient(
    potential,
    (u) => tf.cast(tf.greaterEqual(u, threshold), 'float32'),
    [potential],
    (dy, [u]) => {
      const s = tf.sigmoid(tf.mul(tf.sub(u as Tensor, threshold), steepness));
      return tf.mul(dy, tf.mul(tf.mul(s, tf.sub(1, s)), steepness));
    },
  );
}

/**
 * Leaky integrate-and-fire neurons: spikes (or constant currents) `[batch, time, in]` → spikes `[batch, time, out]`. A membrane keeps
 * `decay` of its potential from step to step, adds what comes through the child `synapses`, and loses `threshold` when it fires.
 * Gradients do not go back through time: each step's goes to the trace of all spikes so far, sum_k decay^k x_{t-k}, which is what the
 * potential depends on (Xiao, Meng, Zhang, He and Lin, Online training through time for spiking neural networks, 2022, section 4).
 */
export function leakyIntegrateAndFire(inputs: number, outputs: number, options: SpikingOptions = {}): Module {
  const { decay = 0.5, threshold = 1, steepness = 4 } = options;
  return {
    kind: 'leakyIntegrateAndFire',
    children: { synapses: synapses(inputs, outputs, options) },
    forward(_params, [x], ctx) {
      const given = lastAxis(x, inputs);
      if (given.rank !== 3) throw new Error(`the input is [${given.shape}], but spikes are [batch, time, ${inputs}]`);
      const currents = ctx.run('synapses', given, traceOf(given, decay));
      const start: Tensor = tf.zeros([given.shape[0] as number, outputs]);
      const { outputs: spikes } = scan(tf.unstack(currents, 1), start, (left, current) => {
        const potential = tf.add(left, current);
        const fired = spike(potential, threshold, steepness);
        const state = withoutGradient(() => tf.mul(tf.sub(potential, tf.mul(fired, threshold)), decay));
        return { state, output: fired };
      });
      return tf.stack(spikes, 1);
    },
  };
}

/** Sums of what came before, less what has leaked since: `[batch, time, width]` → the same. No gradient. */
function traceOf(x: Tensor, decay: number): Tensor {
  return withoutGradient(() => {
    const [first, ...others] = tf.unstack(x, 1) as [Tensor, ...Tensor[]];
    const { outputs } = scan(others, first, (trace, now) => {
      const next = tf.add(tf.mul(trace, decay), now);
      return { state: next, output: next };
    });
    return tf.stack([first, ...outputs], 1);
  });
}

/** The same current at each of `steps` time steps: `[batch, width]` → `[batch, time, width]`. */
export function constantCurrent(steps: number): Module {
  return {
    kind: 'constantCurrent',
    forward: (_params, [x]) => tf.stack(new Array<Tensor>(steps).fill(x as Tensor), 1),
  };
}

/** Mean over time: `[batch, time, width]` → `[batch, width]`. */
export function firingRate(): Module {
  return { kind: 'firingRate', forward: (_params, [x]) => tf.mean(x as Tensor, 1) };
}
