import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import * as init from '../init.ts';
import type { Module, ParamSpec, Tensors } from '../module.ts';
import { param } from '../param.ts';

/**
 * Applies `step` to every time step and carries its state along, as one unrolled graph. `xs` are the inputs of each
 * step, `initial` the first state; returns the outputs of every step and the last state.
 */
export function scan<S>(
  xs: readonly Tensor[],
  initial: S,
  step: (state: S, x: Tensor) => { readonly state: S; readonly output: Tensor },
): { readonly outputs: Tensor[]; readonly state: S } {
  const outputs: Tensor[] = [];
  let state = initial;
  for (const x of xs) {
    const next = step(state, x);
    outputs.push(next.output);
    state = next.state;
  }
  return { outputs, state };
}

/**
 * Long short-term memory (Hochreiter and Schmidhuber 1997): `[batch, time, in]` → `[batch, time, hidden]`, starting at
 * zero. Gates in the order input, forget, cell, output, as in PyTorch: `weight` `[in, 4 hidden]`, `recurrent`
 * `[hidden, 4 hidden]`, `bias` `[4 hidden]` (PyTorch's two biases added; the forget gate's starts at 1).
 */
export function lstm(inputs: number, hidden: number): Module {
  return {
    kind: 'lstm',
    params: {
      ...gateWeights(inputs, hidden, 4),
      bias: param([4 * hidden], (_rng, [size]) => new Float32Array(size as number).fill(1, hidden, 2 * hidden)),
    },
    forward(params, [x]) {
      const zero = tf.zeros([x.shape[0] as number, hidden]);
      const { outputs } = scan(
        inputsByTime(x, inputs, params),
        { h: zero, c: zero } as { h: Tensor; c: Tensor },
        (state, fromInput) => {
          const gates = tf.add(fromInput, tf.matMul(state.h as tf.Tensor2D, params.recurrent as tf.Tensor2D));
          const [i, f, g, o] = tf.split(gates, 4, 1) as [Tensor, Tensor, Tensor, Tensor];
          const c = tf.add(tf.mul(tf.sigmoid(f), state.c), tf.mul(tf.sigmoid(i), tf.tanh(g)));
          const h = tf.mul(tf.sigmoid(o), tf.tanh(c));
          return { state: { h, c }, output: h };
        },
      );
      return tf.stack(outputs, 1);
    },
  };
}

/**
 * Gated recurrent unit (Cho et al. 2014) in PyTorch's variant, whose reset gate acts on the recurrent product:
 * `[batch, time, in]` → `[batch, time, hidden]`, starting at zero. Gates in the order reset, update, new: `weight`
 * `[in, 3 hidden]`, `recurrent` `[hidden, 3 hidden]`, `bias` and `recurrentBias` `[3 hidden]`.
 */
export function gru(inputs: number, hidden: number): Module {
  return {
    kind: 'gru',
    params: {
      ...gateWeights(inputs, hidden, 3),
      bias: param([3 * hidden], init.zeros),
      recurrentBias: param([3 * hidden], init.zeros),
    },
    forward(params, [x]) {
      const zero: Tensor = tf.zeros([x.shape[0] as number, hidden]);
      const { outputs } = scan(inputsByTime(x, inputs, params), zero, (h, fromInput) => {
        const fromState = tf.add(tf.matMul(h as tf.Tensor2D, params.recurrent as tf.Tensor2D), params.recurrentBias);
        const [xr, xz, xn] = tf.split(fromInput, 3, 1) as [Tensor, Tensor, Tensor];
        const [hr, hz, hn] = tf.split(fromState, 3, 1) as [Tensor, Tensor, Tensor];
        const reset = tf.sigmoid(tf.add(xr, hr));
        const update = tf.sigmoid(tf.add(xz, hz));
        const fresh = tf.tanh(tf.add(xn, tf.mul(reset, hn)));
        // (1 - z) * n + z * h, with one product fewer.
        const next = tf.add(fresh, tf.mul(update, tf.sub(h, fresh)));
        return { state: next, output: next };
      });
      return tf.stack(outputs, 1);
    },
  };
}

function gateWeights(inputs: number, hidden: number, gates: number): Record<'weight' | 'recurrent', ParamSpec> {
  const weightInit = init.uniform(1 / Math.sqrt(hidden));
  return {
    weight: param([inputs, gates * hidden], weightInit),
    recurrent: param([hidden, gates * hidden], weightInit),
  };
}

/** What the inputs add to the gates, for each time step `[batch, gates]`: one product for the whole sequence. */
function inputsByTime(x: Tensor | undefined, inputs: number, params: Tensors): Tensor[] {
  if (x?.rank !== 3 || x.shape[2] !== inputs) throw new Error(`expected [batch, time, ${inputs}], not [${x?.shape}]`);
  const [batch, time] = x.shape as [number, number, number];
  const timeFirst = tf.reshape(tf.transpose(x, [1, 0, 2]), [time * batch, inputs]);
  const gates = tf.add(tf.matMul(timeFirst as tf.Tensor2D, params.weight as tf.Tensor2D), params.bias);
  return tf.split(gates, time, 0).map((part) => tf.reshape(part, [batch, -1]));
}
