import '@tensorflow/tfjs-backend-cpu';
import type { Tensor } from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect } from 'vitest';
import { type DeviceTensor, type GraphDType, type Signature, tf, trace, traceVjp } from '../../../src/engine/index.ts';
import { createOnnxEngine, type OnnxEngine } from '../../../src/engine/onnx/index.ts';
import { type HostTensor, type Shape, sizeOf } from '../../../src/tensor/index.ts';

/** What random numbers of an input look like. */
export type Fill =
  | 'normal' // about -3 .. 3
  | 'positive' // 0.1 .. 3
  | 'unit' // -0.95 .. 0.95
  | 'above-one' // 1.1 .. 4
  | 'distinct' // a permutation, spaced by 0.1: no ties
  | 'small-int' // -5 .. 5
  | 'nonzero-int' // -5 .. 5 without 0
  | 'bool'
  | { readonly below: number }; // integers 0 .. below - 1

/** An input: its shape, and how it is filled (`normal` float32 unless told otherwise). */
export interface Input {
  readonly shape: Shape;
  readonly fill?: Fill;
  readonly dtype?: GraphDType;
}

/** An op with inputs of random shapes. */
export interface KernelCase {
  readonly name: string;
  readonly inputs: fc.Arbitrary<readonly Input[]>;
  readonly fn: (...inputs: Tensor[]) => Tensor | Tensor[];
  /**
   * What the gradient is compared with: tfjs's own on its CPU backend (the default), finite differences where tfjs has
   * none or a wrong one, or nothing.
   */
  readonly gradient?: 'tfjs' | 'numeric' | 'none';
  /** Relative and absolute tolerance; default 1e-5 of the largest magnitude. */
  readonly tolerance?: number;
}

/** Uniform numbers in [0, 1) from a seed (mulberry32). */
export function generator(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function makeInput(input: Input, random: () => number): HostTensor {
  const size = sizeOf(input.shape);
  const fill = input.fill ?? 'normal';
  const integer = typeof fill === 'object' || fill === 'small-int' || fill === 'nonzero-int';
  const dtype = input.dtype ?? (fill === 'bool' ? 'bool' : integer ? 'int32' : 'float32');
  const order = Array.from({ length: size }, (_, i) => i);
  for (let i = size - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j] as number, order[i] as number];
  }
  const draw = (i: number): number => {
    if (typeof fill === 'object') return Math.floor(random() * fill.below);
    switch (fill) {
      case 'normal':
        return (random() + random() + random() - 1.5) * 2;
      case 'positive':
        return 0.1 + random() * 2.9;
      case 'unit':
        return (random() * 2 - 1) * 0.95;
      case 'above-one':
        return 1.1 + random() * 2.9;
      case 'distinct':
        return ((order[i] as number) - size / 2 + 0.3) * 0.1;
      case 'bool':
        return random() < 0.5 ? 0 : 1;
      default: {
        const value = Math.floor(random() * 11) - 5;
        return fill === 'nonzero-int' && value === 0 ? 3 : value;
      }
    }
  };
  const values = Array.from({ length: size }, (_, i) => draw(i));
  const data =
    dtype === 'float32'
      ? Float32Array.from(values)
      : dtype === 'int32'
        ? Int32Array.from(values)
        : Uint8Array.from(values);
  return { dtype, shape: input.shape, data };
}

const asTensor = (x: HostTensor): Tensor => tf.tensor(x.data as Float32Array, [...x.shape], x.dtype as 'float32');
const asHost = (x: Tensor): HostTensor => ({
  dtype: x.dtype as GraphDType,
  shape: x.shape,
  data: x.dataSync() as Float32Array,
});
const listOf = (result: Tensor | Tensor[]): Tensor[] => (Array.isArray(result) ? result : [result]);

/** `tf.tidy` for results that are not tensors. */
function tidied<T>(fn: () => T): T {
  let result: T | undefined;
  tf.tidy(() => {
    result = fn();
  });
  return result as T;
}

/** Runs a function eagerly on tfjs's CPU backend. */
function eager(fn: KernelCase['fn'], inputs: readonly HostTensor[]): HostTensor[] {
  tf.setBackend('cpu');
  return tidied(() => listOf(fn(...inputs.map(asTensor))).map(asHost));
}

/** The sum of all float outputs times their cotangents, in float64: what gradients are derivatives of. */
function objective(fn: KernelCase['fn'], inputs: readonly HostTensor[], seeds: readonly (HostTensor | null)[]): number {
  return eager(fn, inputs).reduce((sum, output, i) => {
    const seed = seeds[i];
    if (!seed) return sum;
    return (output.data as Float32Array).reduce(
      (total, y, k) => total + y * ((seed.data as Float32Array)[k] as number),
      sum,
    );
  }, 0);
}

function eagerGradients(
  test: KernelCase,
  inputs: readonly HostTensor[],
  seeds: readonly (HostTensor | null)[],
): (HostTensor | null)[] {
  if (test.gradient === 'numeric') return inputs.map((_, i) => numericGradient(test.fn, inputs, seeds, i));
  tf.setBackend('cpu');
  return tidied(() => {
    const tensors = inputs.map(asTensor);
    const floats = tensors.filter((x) => x.dtype === 'float32');
    const weighted = (...xs: Tensor[]): Tensor => {
      let at = 0;
      const all = tensors.map((x) => (x.dtype === 'float32' ? (xs[at++] as Tensor) : x));
      const terms = listOf(test.fn(...all)).flatMap((y, i) =>
        seeds[i] ? [tf.sum(tf.mul(y, asTensor(seeds[i] as HostTensor)))] : [],
      );
      return terms.reduce((sum, term) => tf.add(sum, term));
    };
    const grads = tf.grads(weighted)(floats);
    let at = 0;
    return tensors.map((x) => (x.dtype === 'float32' ? asHost(grads[at++] as Tensor) : null));
  });
}

function numericGradient(
  fn: KernelCase['fn'],
  inputs: readonly HostTensor[],
  seeds: readonly (HostTensor | null)[],
  at: number,
): HostTensor | null {
  const input = inputs[at] as HostTensor;
  if (input.dtype !== 'float32') return null;
  const step = 2 ** -7;
  const grad = Float32Array.from(input.data as Float32Array, (_, k) => {
    const moved = (by: number): number => {
      const data = Float32Array.from(input.data as Float32Array);
      data[k] = (data[k] as number) + by;
      return objective(
        fn,
        inputs.map((x, i) => (i === at ? { ...x, data } : x)),
        seeds,
      );
    };
    return (moved(step) - moved(-step)) / (2 * step);
  });
  return { ...input, data: grad };
}

let shared: Promise<OnnxEngine> | undefined;

/** The engine of this test file: one thread on the CPU. */
export function cpuEngine(): Promise<OnnxEngine> {
  shared ??= createOnnxEngine({ device: 'cpu', threads: 1 });
  return shared;
}

/** Compares a case on ONNX Runtime with tfjs on the CPU, values and gradients, for one choice of inputs. */
export async function check(test: KernelCase, shapes: readonly Input[], seed: number): Promise<void> {
  const engine = await cpuEngine();
  const random = generator(seed);
  const inputs = shapes.map((shape) => makeInput(shape, random));
  const signature = inputs.map(({ dtype, shape }): Signature => ({ dtype: dtype as GraphDType, shape }));
  const label = `${test.name}(${inputs.map((x) => `${x.dtype}[${x.shape}]`).join(', ')})`;
  const expected = eager(test.fn, inputs);
  const handles = inputs.map((x) => engine.upload(x));
  const forward = await engine.compileGraph(trace(test.fn, signature, { name: test.name }), test.name);
  const values = (await forward.run(handles)).map((y) => engine.host(y) as HostTensor);
  expect(values.length, label).toBe(expected.length);
  expected.forEach((y, i) => {
    expectClose(`${label} output ${i}`, values[i] as HostTensor, y, test.tolerance ?? 1e-5);
  });

  if (test.gradient === 'none' || !inputs.some((x) => x.dtype === 'float32')) return;
  const seeds = expected.map((y) => (y.dtype === 'float32' ? makeInput({ shape: y.shape }, random) : null));
  if (!seeds.some((each) => each !== null)) return;
  const vjp = traceVjp(test.fn, signature, {
    name: test.name,
    wrt: inputs.map((x) => x.dtype === 'float32'),
    differentiable: seeds.map((each) => each !== null),
  });
  const executable = await engine.compileGraph(vjp.graph, `${test.name} gradient`);
  const cotangents = seeds.filter((each) => each !== null);
  const results = await executable.run([...handles, ...cotangents.map((x) => engine.upload(x))]);
  let at = expected.length;
  const wanted = eagerGradients(test, inputs, seeds);
  vjp.gradients.forEach((id, i) => {
    const reference = wanted[i];
    const found = id === null ? null : engine.host(results[at++] as DeviceTensor);
    if (!reference) return;
    const zero = { ...reference, data: new Float32Array(sizeOf(reference.shape)) };
    const tolerance = test.gradient === 'numeric' ? 2e-2 : (test.tolerance ?? 1e-5) * 4;
    expectClose(`${label} gradient ${i}`, found ?? zero, reference, tolerance);
  });
}

function expectClose(label: string, actual: HostTensor, expected: HostTensor, tolerance: number): void {
  expect({ label, dtype: actual.dtype, shape: [...actual.shape] }).toEqual({
    label,
    dtype: expected.dtype,
    shape: [...expected.shape],
  });
  const [a, b] = [actual.data as Float32Array, expected.data as Float32Array];
  let largest = 1;
  for (const x of b) if (Number.isFinite(x)) largest = Math.max(largest, Math.abs(x));
  for (let i = 0; i < b.length; i++) {
    const [x, y] = [a[i] as number, b[i] as number];
    if (Object.is(x, y) || x === y || (Number.isNaN(x) && Number.isNaN(y))) continue;
    if (!(Math.abs(x - y) <= tolerance * largest))
      expect.fail(`${label}: element ${i} is ${x}, expected ${y} (tolerance ${tolerance * largest})`);
  }
}

/** Runs a case over random shapes and its edges. */
export async function property(test: KernelCase, runs = 6): Promise<void> {
  await fc.assert(
    fc.asyncProperty(test.inputs, fc.integer({ min: 0, max: 2 ** 31 - 1 }), (inputs, seed) =>
      check(test, inputs, seed),
    ),
    { numRuns: runs, seed: 1234, endOnFailure: true },
  );
}

/** A shape of the given ranks and sizes. */
export function shapes(minRank: number, maxRank: number, minDim = 0, maxDim = 5): fc.Arbitrary<number[]> {
  return fc.array(fc.integer({ min: minDim, max: maxDim }), { minLength: minRank, maxLength: maxRank });
}

/** Two shapes that broadcast against each other. */
export function broadcastPair(): fc.Arbitrary<[number[], number[]]> {
  return shapes(0, 4, 0, 4).chain((full) =>
    fc
      .tuple(
        fc.array(fc.boolean(), { minLength: full.length, maxLength: full.length }),
        fc.integer({ min: 0, max: full.length }),
        fc.boolean(),
      )
      .map(([ones, drop, swap]): [number[], number[]] => {
        const partial = full.map((dim, i) => (ones[i] ? 1 : dim)).slice(drop);
        return swap ? [partial, full] : [full, partial];
      }),
  );
}

/** One input of a random shape, rank 0 to 4, zero sizes among them. */
export function one(fill: Fill = 'normal', minRank = 0, minDim = 0, maxRank = 4): fc.Arbitrary<readonly Input[]> {
  return shapes(minRank, maxRank, minDim).map((shape) => [{ shape, fill }]);
}

/** Two inputs that broadcast. */
export function two(a: Fill = 'normal', b: Fill = a): fc.Arbitrary<readonly Input[]> {
  return broadcastPair().map(([x, y]) => [
    { shape: x, fill: a },
    { shape: y, fill: b },
  ]);
}

/** Fixed inputs. */
export function exactly(...inputs: (Input | Shape)[]): fc.Arbitrary<readonly Input[]> {
  return fc.constant(inputs.map((input) => ('shape' in input ? input : { shape: input })));
}

/** One of several choices of fixed inputs. */
export function anyOf(...choices: (readonly (Input | Shape)[])[]): fc.Arbitrary<readonly Input[]> {
  return fc.constantFrom(
    ...choices.map((inputs) => inputs.map((input): Input => ('shape' in input ? input : { shape: input }))),
  );
}
