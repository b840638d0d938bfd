import type { Tensor } from '@tensorflow/tfjs-core';
import { gelu, layerNorm, type Signature, softmaxCrossEntropy, tf } from '../../src/engine/index.ts';

/** Sizes of the benchmark's transformer. */
export interface Sizes {
  readonly layers: number;
  readonly width: number;
  readonly heads: number;
  readonly vocabulary: number;
  readonly batch: number;
  readonly time: number;
}

/** What the issue measures: 6 layers, d = 256, 4 heads, 8 x 128 tokens. */
export const ISSUE: Sizes = { layers: 6, width: 256, heads: 4, vocabulary: 256, batch: 8, time: 128 };

type Params = readonly Tensor[];

/** A function with the shapes of its parameters, the initial scale of each, and the shape of its activation. */
export interface Part {
  readonly params: readonly { readonly shape: readonly number[]; readonly init: number | 'ones' }[];
}

/** Parameters of the embedding: token and position tables. */
export function embedding(s: Sizes): Part {
  return {
    params: [
      { shape: [s.vocabulary, s.width], init: 0.02 },
      { shape: [s.time, s.width], init: 0.02 },
    ],
  };
}

/** Parameters of a block: norm, fused query-key-value, projection, norm, two linear layers. */
export function block(s: Sizes): Part {
  const d = s.width;
  return {
    params: [
      { shape: [d], init: 'ones' },
      { shape: [d], init: 0 },
      { shape: [d, 3 * d], init: 0.02 },
      { shape: [3 * d], init: 0 },
      { shape: [d, d], init: 0.02 },
      { shape: [d], init: 0 },
      { shape: [d], init: 'ones' },
      { shape: [d], init: 0 },
      { shape: [d, 4 * d], init: 0.02 },
      { shape: [4 * d], init: 0 },
      { shape: [4 * d, d], init: 0.02 },
      { shape: [d], init: 0 },
    ],
  };
}

/** Parameters of the head: norm and logits. */
export function head(s: Sizes): Part {
  const d = s.width;
  return {
    params: [
      { shape: [d], init: 'ones' },
      { shape: [d], init: 0 },
      { shape: [d, s.vocabulary], init: 0.02 },
    ],
  };
}

const p = (params: Params, i: number): Tensor => params[i] as Tensor;

/** Activation `[batch * time, width]` from tokens int32 `[batch * time]`. */
export function embed(s: Sizes, params: Params, tokens: Tensor): Tensor {
  const rows = tf.reshape(tf.gather(p(params, 0), tokens), [s.batch, s.time, s.width]);
  return tf.reshape(tf.add(rows, p(params, 1)), [s.batch * s.time, s.width]);
}

/** A pre-norm transformer block over `[batch * time, width]`. */
export function runBlock(s: Sizes, params: Params, x: Tensor): Tensor {
  const attended = tf.add(x, attention(s, params.slice(2, 6), layerNorm(x, p(params, 0), p(params, 1))));
  const hidden = gelu(linear(layerNorm(attended, p(params, 6), p(params, 7)), p(params, 8), p(params, 9)));
  return tf.add(attended, linear(hidden, p(params, 10), p(params, 11)));
}

function linear(x: Tensor, weight: Tensor, bias: Tensor): Tensor {
  return tf.add(tf.matMul(x, weight), bias);
}

function attention(s: Sizes, params: Params, x: Tensor): Tensor {
  const size = s.width / s.heads;
  const qkv = tf.reshape(linear(x, p(params, 0), p(params, 1)), [s.batch, s.time, 3, s.heads, size]);
  const [q, k, v] = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4])) as [Tensor, Tensor, Tensor];
  const scores = tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(size));
  const mask = tf.tensor2d(
    Float32Array.from({ length: s.time * s.time }, (_, i) => (i % s.time > Math.floor(i / s.time) ? -1e9 : 0)),
    [s.time, s.time],
  );
  const mixed = tf.matMul(tf.softmax(tf.add(scores, mask)), v);
  const merged = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [s.batch * s.time, s.width]);
  return linear(merged, p(params, 2), p(params, 3));
}

/** Mean cross-entropy of the next token; `targets` int32 `[batch * time]`. */
export function runHead(params: Params, x: Tensor, targets: Tensor): Tensor {
  const logits = tf.matMul(layerNorm(x, p(params, 0), p(params, 1)), p(params, 2));
  return tf.mean(softmaxCrossEntropy(logits, targets));
}

/** Parts in order: embedding, blocks, head. */
export function parts(s: Sizes): Part[] {
  return [embedding(s), ...Array.from({ length: s.layers }, () => block(s)), head(s)];
}

/** The whole model: inputs are all parameters, tokens, targets; output the loss. */
export function lossOf(s: Sizes, inputs: readonly Tensor[]): Tensor {
  const counts = parts(s).map((part) => part.params.length);
  let at = 0;
  const take = (i: number): Tensor[] => {
    const begin = at;
    at += counts[i] as number;
    return inputs.slice(begin, at);
  };
  const tokens = inputs[inputs.length - 2] as Tensor;
  const targets = inputs[inputs.length - 1] as Tensor;
  let x = embed(s, take(0), tokens);
  for (let i = 0; i < s.layers; i++) x = runBlock(s, take(i + 1), x);
  return runHead(take(s.layers + 1), x, targets);
}

/** Signatures of a part's parameters. */
export function paramSignature(part: Part): Signature[] {
  return part.params.map(({ shape }) => ({ dtype: 'float32', shape }));
}

/** Initial parameters and one batch, the same for every engine: numbers from a fixed linear congruential generator. */
export function initialValues(s: Sizes): { params: Float32Array[]; tokens: Int32Array; targets: Int32Array } {
  let state = 12345;
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 4294967296;
  };
  const params = parts(s).flatMap((part) =>
    part.params.map(({ shape, init }) => {
      const size = shape.reduce((product, dim) => product * dim, 1);
      return Float32Array.from({ length: size }, () =>
        init === 'ones' ? 1 : init === 0 ? 0 : (next() * 2 - 1) * init * Math.sqrt(3),
      );
    }),
  );
  const ids = (): Int32Array => Int32Array.from({ length: s.batch * s.time }, () => Math.floor(next() * s.vocabulary));
  return { params, tokens: ids(), targets: ids() };
}
