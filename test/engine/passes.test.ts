import type { Tensor } from '@tensorflow/tfjs-core';
import { describe, expect, test } from 'vitest';
import {
  type Graph,
  gelu,
  layerNorm,
  softmaxCrossEntropy,
  type TensorFunction,
  tf,
  trace,
  traceVjp,
} from '../../src/engine/index.ts';
import {
  deadCode,
  foldConstants,
  fuse,
  optimize,
  shareCommon,
  simplify,
  unbroadcastOperands,
} from '../../src/engine/passes/index.ts';
import { cases } from './op-cases.ts';
import { checkForward, checkGradient, evaluate, expectClose, integers, random, signatureOfAll } from './reference.ts';

function kernels(graph: Graph, where: (node: Graph['nodes'][number]) => boolean = () => true): string[] {
  return graph.nodes
    .filter(where)
    .map((node) => node.kernel)
    .sort();
}

function forwardGraph(fn: TensorFunction, inputs: readonly Tensor[]): Graph {
  return optimize(trace(fn, signatureOfAll(inputs)));
}

describe('optimized graphs compute the same', () => {
  test.each(cases)('%s', (_name, fn, inputs, options) => {
    checkForward(fn, inputs(), optimize);
    checkGradient(fn, inputs(), { ...options, rewrite: optimize });
  });

  test.each([
    ['deadCode', deadCode],
    ['simplify', simplify],
    ['shareCommon', shareCommon],
    ['foldConstants', foldConstants],
    ['unbroadcastOperands', unbroadcastOperands],
    ['fuse', fuse],
  ] as const)('%s alone', (_name, pass) => {
    const inputs = [random([4, 6], 1), random([6, 5], 2), random([5], 3), random([5], 4), integers([4], 5)];
    const fn: TensorFunction = (x, w, g, b, l) => {
      const h = plainLayerNorm(tf.mul(tf.matMul(x, w), 0.5), g, b);
      const one = tf.mul(tf.mul(tf.scalar(2), tf.scalar(0.5)), h);
      return tf.losses.softmaxCrossEntropy(tf.oneHot(l as never, 5), tf.transpose(tf.transpose(plainGelu(one))));
    };
    const vjp = traceVjp(fn, signatureOfAll(inputs), { wrt: [true, true, true, true, false], differentiable: [true] });
    const given = [...inputs, tf.scalar(1)];
    const before = evaluate(vjp.graph, given);
    const after = evaluate(pass(vjp.graph), given);
    before.forEach((each, i) => {
      expectClose(after[i] as Tensor, each, 1e-6, `output ${i}`);
    });
  });
});

function plainLayerNorm(x: Tensor, gain: Tensor, bias: Tensor): Tensor {
  const { mean, variance } = tf.moments(x, -1, true);
  return tf.add(tf.mul(tf.mul(tf.sub(x, mean), tf.rsqrt(tf.add(variance, 1e-5))), gain), bias);
}

function plainGelu(x: Tensor): Tensor {
  return tf.mul(tf.mul(x, 0.5), tf.add(1, tf.erf(tf.div(x, Math.SQRT2))));
}

function plainGeluTanh(x: Tensor): Tensor {
  const inner = tf.mul(Math.sqrt(2 / Math.PI), tf.add(x, tf.mul(0.044715, tf.pow(x, 3))));
  return tf.mul(0.5, tf.mul(x, tf.add(1, tf.tanh(inner))));
}

describe('patterns of plain ops become our kernels', () => {
  const x = () => [random([4, 6], 1)];
  test('layer norm with rsqrt and with a square root', () => {
    const inputs = [random([2, 3, 6], 1), random([6], 2), random([6], 3)];
    expect(kernels(forwardGraph((a, g, b) => plainLayerNorm(a, g, b), inputs))).toEqual(['PlexusLayerNorm']);
    const byRoot: TensorFunction = (a, g, b) => {
      const centred = tf.sub(a, tf.mean(a, -1, true));
      const variance = tf.mean(tf.square(centred), -1, true);
      return tf.add(tf.mul(g, tf.div(centred, tf.sqrt(tf.add(variance, 1e-5)))), b);
    };
    expect(kernels(forwardGraph(byRoot, inputs))).toEqual(['PlexusLayerNorm']);
    checkForward(byRoot, inputs, optimize);
    checkGradient(byRoot, inputs, { rewrite: optimize, tolerance: 2e-2 });
  });

  test('GELU with erf and with tanh', () => {
    expect(forwardGraph((a) => plainGelu(a), x()).nodes.map((n) => [n.kernel, n.attrs.approximate])).toEqual([
      ['PlexusGelu', 'none'],
    ]);
    expect(forwardGraph((a) => plainGeluTanh(a), x()).nodes.map((n) => [n.kernel, n.attrs.approximate])).toEqual([
      ['PlexusGelu', 'tanh'],
    ]);
    checkForward((a) => plainGeluTanh(a), x(), optimize);
    checkGradient((a) => plainGelu(a), x(), { rewrite: optimize });
  });

  test('what looks like GELU but is not stays', () => {
    const half: TensorFunction = (a, b) => tf.mul(tf.mul(b, 0.5), tf.add(1, tf.erf(tf.div(a, Math.SQRT2))));
    expect(kernels(forwardGraph(half, [random([4], 1), random([4], 2)]))).not.toContain('PlexusGelu');
  });

  test('softmax cross-entropy through one-hot labels, forward and gradient, without the one-hot tensor', () => {
    const inputs = [random([4, 5], 1), integers([4], 5)];
    const fn: TensorFunction = (a, l) => tf.losses.softmaxCrossEntropy(tf.oneHot(l as never, 5), a);
    const vjp = traceVjp(fn, signatureOfAll(inputs), { wrt: [true, false], differentiable: [true] });
    const found = kernels(optimize(vjp.graph));
    expect(found).toContain('PlexusSoftmaxCrossEntropy');
    expect(found).toContain('PlexusSoftmaxCrossEntropyGrad');
    expect(found).not.toContain('OneHot');
    expect(found).not.toContain('Exp');
  });

  test('silu, log-softmax', () => {
    expect(kernels(forwardGraph((a) => tf.mul(a, tf.sigmoid(a)), x()))).toEqual(['PlexusSilu']);
    expect(kernels(forwardGraph((a) => tf.logSoftmax(a), x()))).toEqual(['LogSoftmax']);
  });

  test('a step of gradient descent is one kernel, unless someone else reads the gradient', () => {
    const inputs = [random([3, 5], 1), random([4, 3], 2), random([4, 5], 3), random([], 4)];
    const step: TensorFunction = (w, x, dy, lr) => tf.sub(w, tf.mul(tf.matMul(x, dy, true), lr));
    const graph = forwardGraph(step, inputs);
    expect(graph.nodes.map(({ kernel }) => kernel)).toEqual(['Multiply', 'PlexusAddProduct']);
    expect(graph.nodes[1]?.attrs).toEqual({ transposeA: true, transposeB: false, alpha: -1 });
    checkForward(step, inputs, optimize);
    const both = forwardGraph((w, x, dy, lr) => {
      const gradient = tf.matMul(x, dy, true);
      return [tf.sub(w, tf.mul(gradient, lr)), gradient];
    }, inputs);
    expect(kernels(both)).not.toContain('PlexusAddProduct');
  });

  test('a sum of all squares is one kernel, unless someone else reads the squares or some stay apart', () => {
    expect(kernels(forwardGraph((a) => tf.sum(tf.square(a)), x()))).toEqual(['PlexusSquaredSum']);
    expect(kernels(forwardGraph((a) => tf.sum(tf.square(a), 0), x()))).not.toContain('PlexusSquaredSum');
    const both = forwardGraph((a) => [tf.sum(tf.square(a)), tf.square(a)], x());
    expect(kernels(both)).toEqual(['Square', 'Sum']);
    checkForward((a) => tf.sum(tf.square(a as tf.Tensor)), x(), optimize);
  });

  test('a bias goes into its convolution, unless someone else reads the convolution or it is no bias', () => {
    const inputs = [random([2, 5, 4, 3], 1), random([3, 3, 3, 2], 2), random([2], 3)];
    const conv = (x: tf.Tensor, f: tf.Tensor) => tf.conv2d(x as tf.Tensor4D, f as tf.Tensor4D, 1, 'same');
    const fn: TensorFunction = (x, f, b) => tf.add(b, conv(x, f));
    expect(kernels(forwardGraph(fn, inputs))).toEqual(['PlexusConv2D']);
    checkForward(fn, inputs, optimize);
    checkGradient(fn, inputs, { rewrite: optimize });
    const depthwise: TensorFunction = (x, f, b) =>
      tf.add(tf.depthwiseConv2d(x as tf.Tensor4D, f as tf.Tensor4D, 1, 'same'), b);
    const channels = [random([2, 5, 4, 3], 1), random([3, 3, 3, 2], 2), random([6], 3)];
    expect(kernels(forwardGraph(depthwise, channels))).toEqual(['PlexusDepthwiseConv2D']);
    checkForward(depthwise, channels, optimize);
    checkGradient(depthwise, channels, { rewrite: optimize });
    const both = forwardGraph((x, f, b) => [tf.add(conv(x, f), b), conv(x, f)], inputs);
    expect(kernels(both)).toEqual(['Add', 'Conv2D']);
    const image = forwardGraph((x, f, b) => tf.add(conv(x, f), tf.reshape(b, [2, 1, 1, 1])), inputs);
    expect(kernels(image)).not.toContain('PlexusConv2D');
  });

  test('transpositions and factors go into matrix products', () => {
    const inputs = [random([2, 3, 4], 1), random([2, 3, 4], 2)];
    const fn: TensorFunction = (a, b) => tf.mul(tf.matMul(a, tf.transpose(b, [0, 2, 1])), 0.125);
    const graph = forwardGraph(fn, inputs);
    expect(graph.nodes.map(({ kernel, attrs }) => [kernel, attrs])).toEqual([
      ['PlexusMatMul', { transposeA: false, transposeB: true, alpha: 0.125 }],
    ]);
    const vjp = traceVjp(fn, signatureOfAll(inputs), { wrt: [true, true], differentiable: [true] });
    expect(kernels(optimize(vjp.graph))).toEqual(['PlexusMatMul', 'PlexusMatMul', 'PlexusMatMul']);
    checkGradient(fn, inputs, { rewrite: optimize });
  });
});

describe('what does nothing goes away', () => {
  test('cancelling reshapes, transpositions, casts, factors of one, additions of shapes', () => {
    const fn: TensorFunction = (a) => {
      const there = tf.transpose(tf.reshape(a, [4, 3, 2]), [1, 2, 0]);
      const back = tf.reshape(tf.transpose(there, [2, 0, 1]), [4, 6]);
      return tf.neg(tf.mul(tf.cast(tf.cast(back, 'float32'), 'float32'), 1));
    };
    expect(kernels(forwardGraph(fn, [random([4, 6])]))).toEqual(['Neg']);
  });

  test('element-wise nodes broadcast by themselves', () => {
    const graph = forwardGraph((a) => tf.where(tf.greater(a, tf.zerosLike(a)), a, tf.zerosLike(a)), [random([4, 6])]);
    expect(kernels(graph)).toEqual(['Greater', 'Select']);
    expect(graph.constants.every(({ data }) => data.length === 1)).toBe(true);
  });

  test('constants are folded where that makes the graph smaller, and only there', () => {
    const graph = forwardGraph((a) => tf.mul(a, tf.sqrt(tf.add(tf.scalar(3), tf.scalar(1)))), [random([4])]);
    expect(kernels(graph)).toEqual(['Multiply']);
    const large = forwardGraph((a) => tf.add(a, tf.cast(tf.range(0, 5000, 1, 'int32'), 'float32')), [random([5000])]);
    expect(kernels(large)).toEqual(['Add', 'Cast', 'Range']);
  });

  test('what is computed twice is computed once', () => {
    const graph = forwardGraph((a) => tf.add(tf.exp(a), tf.mul(tf.exp(a), tf.exp(a))), [random([4])]);
    expect(kernels(graph)).toEqual(['Add', 'Exp', 'Multiply']);
  });
});

/** A transformer block with a loss: the last input is of labels. */
function transformerBlock(): { fn: TensorFunction; inputs: Tensor[]; wrt: boolean[] } {
  const d = 8;
  const shapes = [[2, 4, d], [d], [d], [d, 3 * d], [d, d], [d], [d], [d, 4 * d], [4 * d, d], [2 * 4]];
  const inputs = shapes.map((shape, i) => (i === 9 ? integers(shape, d) : random(shape, i)));
  const fn: TensorFunction = (x, g1, b1, qkv, o, g2, b2, up, down, labels) => {
    const [q, k, v] = tf.split(tf.matMul(layerNorm(x, g1, b1), qkv), 3, 2) as [Tensor, Tensor, Tensor];
    const scores = tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(d));
    const h = tf.add(x, tf.matMul(tf.matMul(tf.softmax(scores), v), o));
    const y = tf.add(h, tf.matMul(gelu(tf.matMul(layerNorm(h, g2, b2), up)), down));
    return tf.mean(softmaxCrossEntropy(tf.reshape(y, [8, d]), labels));
  };
  return { fn, inputs, wrt: shapes.map((_, i) => i < 9) };
}

test('an optimized transformer block has one fused kernel where it can', () => {
  const { fn, inputs, wrt } = transformerBlock();
  checkGradient(fn, inputs, { rewrite: optimize, tolerance: 2e-2 });
  const vjp = traceVjp(fn, signatureOfAll(inputs), { wrt, differentiable: [true] });
  const forward = kernels(optimize(vjp.graph), (node) => !node.backward);
  expect(forward.filter((kernel) => kernel === 'PlexusLayerNorm')).toHaveLength(2);
  expect(forward.filter((kernel) => kernel === 'PlexusMatMul')).toHaveLength(1);
  expect(forward).not.toContain('Transpose');
});

test('optimizing gives the graph of all passes one by one, and leaves an optimized graph as it is', () => {
  const { fn, inputs, wrt } = transformerBlock();
  const { graph } = traceVjp(fn, signatureOfAll(inputs), { wrt, differentiable: [true] });
  let expected = deadCode(graph);
  for (let round = 0; round < 2; round++)
    for (const pass of [foldConstants, simplify, shareCommon, unbroadcastOperands, fuse]) expected = pass(expected);
  expected = deadCode(shareCommon(simplify(expected)));
  const optimized = optimize(graph);
  expect(optimized).toEqual(expected);
  expect([...optimized.values]).toEqual([...expected.values]);
  expect(deadCode(optimized)).toEqual(optimized);
});
