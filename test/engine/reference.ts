// Runs a function three ways: eagerly on tfjs's CPU backend, traced and interpreted there, and differentiated by central
// differences. What the tests of the tracer and of the passes compare.
import '@tensorflow/tfjs-backend-cpu';
import type { Tensor } from '@tensorflow/tfjs-core';
import { expect } from 'vitest';
import type { Graph, Signature, TensorFunction } from '../../src/engine/index.ts';
import { tf, trace, traceVjp } from '../../src/engine/index.ts';
import { interpret, prepare } from '../../src/engine/tfjs/interpret.ts';

await tf.setBackend('cpu');

/** A small deterministic generator of numbers in [-1, 1). */
export function numbers(seed: number): () => number {
  let state = seed * 2654435761 + 12345;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 32) * 2 - 1;
  };
}

/** A float32 tensor of numbers in [low, high). */
export function random(shape: number[], seed = 1, low = -1, high = 1): Tensor {
  const next = numbers(seed);
  const size = shape.reduce((a, b) => a * b, 1);
  return tf.tensor(
    Float32Array.from({ length: size }, () => low + ((next() + 1) / 2) * (high - low)),
    shape,
  );
}

/** An int32 tensor of numbers in [0, bound). */
export function integers(shape: number[], bound: number, seed = 1): Tensor {
  const next = numbers(seed);
  const size = shape.reduce((a, b) => a * b, 1);
  return tf.tensor(
    Int32Array.from({ length: size }, () => Math.floor(((next() + 1) / 2) * bound)),
    shape,
    'int32',
  );
}

export function signatureOfAll(inputs: readonly Tensor[]): Signature[] {
  return inputs.map(({ dtype, shape }) => ({ dtype: dtype as 'float32', shape }));
}

/** Interprets a graph on the CPU backend. */
export function evaluate(graph: Graph, inputs: readonly Tensor[]): Tensor[] {
  return interpret(prepare(graph, 'test'), inputs);
}

export function expectClose(actual: Tensor, expected: Tensor, tolerance: number, what: string): void {
  expect(`${actual.dtype} [${actual.shape}]`, what).toBe(`${expected.dtype} [${expected.shape}]`);
  const a = actual.dataSync();
  const e = expected.dataSync();
  let scale = 1;
  for (const value of e) if (Number.isFinite(value)) scale = Math.max(scale, Math.abs(value));
  for (let i = 0; i < e.length; i++) {
    if (Object.is(a[i], e[i]) || a[i] === e[i]) continue;
    expect(
      Math.abs((a[i] as number) - (e[i] as number)),
      `${what}, element ${i}: ${a[i]} against ${e[i]}`,
    ).toBeLessThan(tolerance * scale);
  }
}

/** The traced function must give what the function gives eagerly. */
export function checkForward(fn: TensorFunction, inputs: readonly Tensor[], rewrite = (graph: Graph) => graph): void {
  const result = fn(...inputs);
  const expected = (Array.isArray(result) ? result : [result]) as Tensor[];
  const actual = evaluate(rewrite(trace(fn, signatureOfAll(inputs))), inputs);
  expected.forEach((each, i) => {
    expectClose(actual[i] as Tensor, each, 2e-5, `output ${i}`);
  });
}

/** Traced gradients by all float inputs, against central differences of sum(output * cotangent). */
export function checkGradient(
  fn: TensorFunction,
  inputs: readonly Tensor[],
  { step = 1e-2, tolerance = 1e-2, rewrite = (graph: Graph) => graph } = {},
): void {
  const result = fn(...inputs);
  const outputs = (Array.isArray(result) ? result : [result]) as Tensor[];
  const differentiable = outputs.map((output) => output.dtype === 'float32');
  const wrt = inputs.map((input) => input.dtype === 'float32');
  const vjp = traceVjp(fn, signatureOfAll(inputs), { wrt, differentiable });
  const cotangents = outputs.map((output, i) => random(output.shape, 100 + i));
  const given = [...inputs, ...cotangents.filter((_, i) => differentiable[i])];
  const actual = evaluate(rewrite(vjp.graph), given);
  const loss = (tensors: readonly Tensor[]): number =>
    tf.tidy(() => {
      const made = fn(...tensors);
      const list = (Array.isArray(made) ? made : [made]) as Tensor[];
      let total = 0;
      list.forEach((output, i) => {
        if (!differentiable[i]) return;
        const values = output.dataSync();
        const weights = (cotangents[i] as Tensor).dataSync();
        for (let k = 0; k < values.length; k++) total += (values[k] as number) * (weights[k] as number);
      });
      return total;
    });
  let at = outputs.length;
  inputs.forEach((input, i) => {
    if (!wrt[i]) return;
    const gradient = vjp.gradients[i] === null ? tf.zerosLike(input) : (actual[at++] as Tensor);
    const values = input.dataSync() as Float32Array;
    const expected = values.map((value, k) => {
      const moved = (by: number) => {
        const copy = values.slice();
        copy[k] = value + by;
        return loss(inputs.map((each, j) => (j === i ? tf.tensor(copy, input.shape) : each)));
      };
      return (moved(step) - moved(-step)) / (2 * step);
    });
    expectClose(gradient, tf.tensor(expected, input.shape), tolerance, `gradient by input ${i}`);
  });
}

/** Forward and gradient. */
export function check(fn: TensorFunction, inputs: readonly Tensor[], options = {}): void {
  checkForward(fn, inputs);
  checkGradient(fn, inputs, options);
}
