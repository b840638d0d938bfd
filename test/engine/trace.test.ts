import type { Tensor } from '@tensorflow/tfjs-core';
import { describe, expect, test } from 'vitest';
import {
  currentPath,
  EngineError,
  expertCall,
  inferOutputs,
  type Signature,
  type TensorFunction,
  tf,
  trace,
  traceVjp,
  uniform,
  uniformReference,
  withPath,
} from '../../src/engine/index.ts';
import { checkForward, evaluate, expectClose, integers, random, signatureOfAll } from './reference.ts';

const f32 = (...shape: number[]): Signature => ({ dtype: 'float32', shape });
const i32 = (...shape: number[]): Signature => ({ dtype: 'int32', shape });

function errorOf(run: () => unknown): EngineError {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(EngineError);
    return error as EngineError;
  }
  throw new Error('expected an error');
}

describe('a trace', () => {
  test('infers shapes and dtypes without computing', () => {
    const fn: TensorFunction = (x, i) => {
      const { values, indices } = tf.topk(x as Tensor, 2);
      return [values, indices, tf.greater(x as Tensor, 0), tf.gather(x as Tensor, i as never)];
    };
    expect(inferOutputs(fn, [f32(100000, 1000), i32(3)])).toEqual([
      f32(100000, 2),
      i32(100000, 2),
      { dtype: 'bool', shape: [100000, 1000] },
      f32(3, 1000),
    ]);
  });

  test('puts the previous tfjs backend back, and leaves no tensor behind', () => {
    const before = tf.memory().numTensors;
    const fn: TensorFunction = (x) => tf.tidy(() => tf.mul(tf.keep(tf.exp(x as Tensor)), 2));
    traceVjp((x) => tf.softmax(tf.mul(x as Tensor, 2)), [f32(3)], { wrt: [true], differentiable: [true] });
    expect(tf.getBackend()).toBe('cpu');
    expect(tf.memory().numTensors).toBe(before);
    trace(fn, [f32(3)]);
    expect(() => trace((x) => tf.matMul(x as Tensor, x as Tensor), [f32(2, 3)])).toThrow();
    expect(tf.getBackend()).toBe('cpu');
    expect(tf.add(1, 2).dataSync()[0]).toBe(3);
  });

  test("leaves tfjs's own gradients as they were", () => {
    const before = tf.getGradient('Sum');
    traceVjp((x) => tf.sum(x as Tensor), [f32(3)], { wrt: [true], differentiable: [true] });
    expect(tf.getGradient('Sum')).toBe(before);
    expect(tf.getGradient('TopK')).toBeUndefined();
  });

  test('records module paths, on gradients too', () => {
    const fn: TensorFunction = (x) => {
      const h = withPath('a', () => {
        expect(currentPath()).toBe('a');
        const inner = withPath('a.b', () => tf.tanh(x as Tensor));
        return tf.exp(inner);
      });
      expect(currentPath()).toBe('');
      return tf.sin(h);
    };
    const { graph } = traceVjp(fn, [f32(3)], { wrt: [true], differentiable: [true] });
    const forward = graph.nodes.filter((node) => !node.backward).map((node) => [node.kernel, node.path]);
    expect(forward).toEqual([
      ['Tanh', 'a.b'],
      ['Exp', 'a'],
      ['Sin', ''],
    ]);
    const backward = graph.nodes.filter((node) => node.backward);
    expect(backward.some((node) => node.kernel === 'Cos' && node.path === '')).toBe(true);
    expect(backward.some((node) => node.kernel === 'Square' && node.path === 'a.b')).toBe(true);
  });

  test('constants are held by reference, filled ones become Fill, equal scalars are one', () => {
    const table = new Float32Array([1, 2, 3, 4]);
    const graph = trace(
      (x) => {
        const a = tf.add(x as Tensor, tf.tensor(table, [2, 2]));
        return tf.add(tf.mul(a, 2), tf.mul(tf.ones([2, 2]), tf.scalar(2)));
      },
      [f32(2, 2)],
    );
    expect(graph.constants.map(({ data }) => data.length)).toEqual([4, 1]);
    expect(graph.constants[0]?.data).toBe(table);
    expect(graph.nodes.filter((node) => node.kernel === 'Fill')).toHaveLength(1);
  });

  test('a constant made inside may be read', () => {
    const graph = trace(
      (x) => tf.mul(x as Tensor, tf.range(0, 3).dataSync === undefined ? 1 : (tf.scalar(4).dataSync()[0] as number)),
      [f32(3)],
    );
    expect(graph.constants[0]?.data[0]).toBe(4);
  });

  test('outputs may be inputs, constants and repeated', () => {
    const x = random([3]);
    checkForward((a) => [a as Tensor, tf.scalar(2), a as Tensor], [x]);
  });

  test('tf.customGrad is followed', () => {
    const straight = tf.customGrad((x) => ({
      value: tf.round(x as Tensor),
      gradFunc: (dy) => tf.mul(dy as Tensor, 3),
    }));
    const vjp = traceVjp((x) => straight(x as Tensor), [f32(2)], { wrt: [true], differentiable: [true] });
    const [, gradient] = evaluate(vjp.graph, [random([2]), tf.tensor([1, 2])]);
    expectClose(gradient as Tensor, tf.tensor([3, 6]), 1e-6, 'gradient');
  });

  test('a gradient inside of the traced function is traced, and differentiated again', () => {
    const penalty: TensorFunction = (x) => {
      const slope = tf.grad((each) => tf.sum(tf.pow(each as Tensor, tf.scalar(3))))(x as Tensor);
      return tf.sum(tf.square(slope));
    };
    const x = tf.tensor([0.5, 1]);
    const vjp = traceVjp(penalty, signatureOfAll([x]), { wrt: [true], differentiable: [true] });
    const [value, gradient] = evaluate(vjp.graph, [x, tf.scalar(1)]);
    expectClose(value as Tensor, tf.scalar(9 * (0.5 ** 4 + 1)), 1e-5, 'value');
    expectClose(gradient as Tensor, tf.tensor([36 * 0.5 ** 3, 36]), 1e-4, 'gradient');
  });

  test('several outputs take cotangents, unused inputs get no gradient, integer inputs neither', () => {
    const fn: TensorFunction = (x, unused, i) => [
      tf.mul(x as Tensor, 2),
      tf.gather(x as Tensor, i as never),
      tf.sum(unused as Tensor),
    ];
    const vjp = traceVjp(fn, [f32(3), f32(2), i32(2)], {
      wrt: [true, true, true],
      differentiable: [true, true, false],
    });
    expect(vjp.gradients.map((id) => id === null)).toEqual([false, true, true]);
    expect(vjp.cotangents.map((id) => id === null)).toEqual([false, false, true]);
  });
});

describe('errors name the module, the kernel and the shapes', () => {
  test('reading numbers', () => {
    for (const read of [(x: Tensor) => x.dataSync(), (x: Tensor) => x.arraySync(), (x: Tensor) => x.bufferSync()]) {
      const fn: TensorFunction = (x) =>
        withPath('moe.router', () => tf.mul(x as Tensor, read(tf.exp(x as Tensor)) as never));
      const error = errorOf(() => trace(fn, [f32(2, 3)], { name: 'blocks.1' }));
      expect(error.path).toBe('blocks.1.moe.router');
      expect(error.message).toContain('module "blocks.1.moe.router"');
      expect(error.message).toContain('float32 [2,3]');
      expect(error.message).toContain('tf.where');
    }
  });

  test('an asynchronous function', () => {
    const fn = (async (x: Tensor) => x) as unknown as TensorFunction;
    expect(errorOf(() => trace(fn, [f32(2)], { name: 'head' })).message).toContain('must be synchronous');
  });

  test('a kernel without a lowering', () => {
    const fn: TensorFunction = (x) => withPath('fft', () => tf.image.nonMaxSuppression(x as never, tf.ones([4]), 2));
    const boxes = errorOf(() =>
      trace((x) => withPath('lrn', () => tf.localResponseNormalization(x as never)), [f32(1, 4, 4, 3)]),
    );
    expect(boxes.message).toContain('module "lrn"');
    expect(boxes.message).toContain('LRN(float32 [1,4,4,3])');
    expect(errorOf(() => trace(fn, [f32(4, 4)])).path).toBe('fft');
  });

  test('random numbers drawn while tracing', () => {
    const fn: TensorFunction = (x) => withPath('drop', () => tf.dropout(x as Tensor, 0.5));
    expect(errorOf(() => trace(fn, [f32(3)])).message).toContain(
      'module "drop": random numbers were drawn while tracing',
    );
    expect(Math.random()).toBeLessThan(1);
    const seeded: TensorFunction = (x) => tf.add(x as Tensor, tf.randomUniform([3], 0, 1, 'float32', 5));
    expect(trace(seeded, [f32(3)]).constants).toHaveLength(1);
  });

  test("tfjs's own checks", () => {
    const fn: TensorFunction = (x, y) => withPath('mlp.up', () => tf.matMul(x as Tensor, y as Tensor));
    const error = errorOf(() => trace(fn, [f32(2, 3), f32(4, 5)], { name: 'blocks.0' }));
    expect(error.message).toContain('module "blocks.0.mlp.up"');
    expect(error.message).toMatch(/3.*4/s);
  });

  test('a gradient that tfjs does not know', () => {
    const fn: TensorFunction = (x) => withPath('cum', () => tf.cumprod(x as Tensor, 0));
    const error = errorOf(() => traceVjp(fn, [f32(3)], { wrt: [true], differentiable: [true], name: 'layer' }));
    expect(error.message).toContain('module "layer.cum"');
    expect(error.message).toContain('Cumprod(float32 [3])');
  });

  test('what is not a tensor', () => {
    expect(errorOf(() => trace((() => 3) as never, [], { name: 'f' })).message).toContain(
      'output 0 is a value of type number',
    );
    expect(errorOf(() => trace((() => [null]) as never, [])).message).toContain('output 0 is null');
  });

  test('a tensor kept from an earlier trace', () => {
    let kept: Tensor | null = null;
    trace(
      (x) => {
        kept ??= tf.keep(tf.exp(x as Tensor));
        return kept;
      },
      [f32(2)],
    );
    expect(errorOf(() => trace((x) => tf.add(x as Tensor, kept as Tensor), [f32(2)])).message).toContain(
      'earlier trace',
    );
  });

  test('strings', () => {
    expect(errorOf(() => trace(() => tf.tensor(['a', 'b']), [])).message).toContain('string');
  });

  test('differentiable and wrt of the wrong length', () => {
    const fn: TensorFunction = (x) => x as Tensor;
    expect(errorOf(() => traceVjp(fn, [f32(2)], { wrt: [], differentiable: [true] })).message).toContain(
      'wrt has 0 entries',
    );
    expect(errorOf(() => traceVjp(fn, [f32(2)], { wrt: [true], differentiable: [] })).message).toContain(
      'differentiable has 0',
    );
  });

  test('experts of the wrong shape, and experts run eagerly', () => {
    const call = (rows: Tensor, counts: Tensor) => expertCall(rows, counts, { path: 'moe', experts: 2 });
    expect(errorOf(() => call(random([2, 3]), tf.tensor1d([1, 1, 1], 'int32'))).message).toContain('int32 counts [2]');
    expect(errorOf(() => call(random([2, 3]), tf.tensor1d([1, 1], 'int32'))).message).toContain('cannot run eagerly');
  });
});

describe('uniform', () => {
  test('is the reference, traced or eager', () => {
    const key = tf.tensor1d([123456789, -987654321], 'int32');
    const [actual] = evaluate(
      trace((k) => uniform(k as Tensor, [3, 4, 5], 77), [i32(2)]),
      [key],
    );
    expect(actual?.dataSync()).toEqual(uniformReference(key.dataSync(), [3, 4, 5], 77));
    expect(uniform(key, [7], 1).dataSync()).toEqual(uniformReference(key.dataSync(), [7], 1));
    expect(uniform(key, [], 1).shape).toEqual([]);
    expect(uniform(key, [2, 0], 1).size).toBe(0);
  });

  test('looks uniform, and independent over keys, streams, rows and columns', () => {
    const n = 256;
    const sample = (key: number[], stream: number) => uniformReference(key, [n, n], stream);
    const base = sample([1, 2], 0);
    const mean = (values: Float32Array) => values.reduce((a, b) => a + b, 0) / values.length;
    const variance = (values: Float32Array) => mean(values.map((x) => (x - 0.5) ** 2));
    expect(Math.abs(mean(base) - 0.5)).toBeLessThan(4 / n / Math.sqrt(12));
    expect(Math.abs(variance(base) - 1 / 12)).toBeLessThan(0.002);
    expect(base.every((x) => x >= 0 && x < 1 && Number.isInteger(x * 2 ** 24))).toBe(true);
    const bins = new Float64Array(256);
    for (const x of base) bins[Math.floor(x * 256)] = (bins[Math.floor(x * 256)] as number) + 1;
    const chi = bins.reduce((sum, count) => sum + (count - 256) ** 2 / 256, 0);
    // 255 degrees of freedom: mean 255, standard deviation 22.6.
    expect(chi).toBeGreaterThan(160);
    expect(chi).toBeLessThan(350);
    const correlation = (a: Float32Array, b: Float32Array) =>
      mean(a.map((x, i) => (x - 0.5) * ((b[i] as number) - 0.5))) * 12;
    const others = [sample([2, 2], 0), sample([1, 3], 0), sample([1, 2], 1), sample([2, 1], 0)];
    for (const other of others) expect(Math.abs(correlation(base, other))).toBeLessThan(4 / n);
    const shift = (by: number) => base.map((_, i) => base[(i + by) % base.length] as number);
    for (const by of [1, 2, n, n + 1, 8]) expect(Math.abs(correlation(base, shift(by)))).toBeLessThan(4 / n);
  });

  test('the first numbers are these for ever: a run resumed with a later version must draw the same', () => {
    expect([...uniformReference([1, 2], [2, 3], 5)]).toMatchInlineSnapshot(`
      [
        0.09232091903686523,
        0.7210398316383362,
        0.10300052165985107,
        0.08324211835861206,
        0.4807876944541931,
        0.3404567241668701,
      ]
    `);
  });
});

test('integers stay integers', () => {
  const x = integers([4], 9);
  expect(
    inferOutputs(
      (a) => [tf.add(a as Tensor, a as Tensor), tf.sum(a as Tensor), tf.cast(a as Tensor, 'float32')],
      signatureOfAll([x]),
    ),
  ).toEqual([i32(4), i32(), f32(4)]);
});
