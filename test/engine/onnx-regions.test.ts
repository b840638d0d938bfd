import type { Tensor } from '@tensorflow/tfjs-core';
import ort from 'onnxruntime-node';
import { afterAll, describe, expect, it } from 'vitest';
import {
  type DeviceTensor,
  type Engine,
  type Graph,
  gelu,
  layerNorm,
  optimize,
  optimizeVjp,
  type Signature,
  tf,
  trace,
  traceVjp,
} from '../../src/engine/index.ts';
import { createOnnxEngine, lower } from '../../src/engine/onnx/index.ts';
import { isRegion, planRegions } from '../../src/engine/onnx/lowering/regions.ts';
import { sizeOf } from '../../src/tensor/index.ts';

const f32 = (...shape: number[]): Signature => ({ dtype: 'float32', shape });

/** Runs a graph with and without regions on the same numbers. */
async function both(graph: Graph): Promise<{ blockwise: Float32Array[]; plain: Float32Array[] }> {
  const run = async (plain: boolean): Promise<Float32Array[]> => {
    const model = lower(graph, 'regions', { provider: 'cpu', threads: 1, plain });
    const session = await ort.InferenceSession.create(model.bytes, {
      graphOptimizationLevel: 'disabled',
      intraOpNumThreads: 1,
      logSeverityLevel: 4,
    });
    const feeds = Object.fromEntries(
      graph.inputs.map((id, i) => {
        const { shape } = graph.values.get(id) as Signature;
        const data = Float32Array.from({ length: sizeOf(shape) }, (_, k) => Math.sin(k * 0.37 + i) * 2);
        return [model.inputs[i] as string, new ort.Tensor('float32', data, shape)];
      }),
    );
    const results = await session.run(feeds);
    await session.release();
    return model.outputs.map((name) => results[name]?.data as Float32Array);
  };
  return { blockwise: await run(false), plain: await run(true) };
}

const regionsOf = (graph: Graph): string[][] =>
  planRegions(graph, 1)
    .filter(isRegion)
    .map(({ nodes }) => nodes.map(({ kernel }) => kernel));

const gradientOf = (fn: (...xs: Tensor[]) => Tensor, signature: Signature[]): Graph =>
  optimizeVjp(traceVjp(fn, signature, { wrt: signature.map(() => true), differentiable: [true] })).graph;

const cases: [string, () => Graph][] = [
  ['GELU', () => gradientOf((x, b) => gelu(tf.add(x, b)), [f32(512, 512), f32(512)])],
  ['layer norm', () => gradientOf((x, g, b) => layerNorm(x, g, b), [f32(1024, 256), f32(256), f32(256)])],
  ['softmax of scores', () => gradientOf((x) => tf.softmax(x), [f32(4, 2, 160, 112)])],
  [
    'masked scores',
    () =>
      optimize(
        trace(
          (x, mask) => tf.exp(tf.neg(tf.square(tf.add(x as Tensor, mask as Tensor)))),
          [f32(8, 3, 96, 96), f32(96, 96)],
        ),
      ),
  ],
  [
    'odd sizes',
    () =>
      optimize(
        trace(
          (x, y) => tf.exp(tf.tanh(tf.mul(tf.sub(x as Tensor, y as Tensor), x as Tensor))),
          [f32(1008, 137), f32(1008, 1)],
        ),
      ),
  ],
  [
    'two groups that meet',
    () =>
      optimize(
        trace(
          (x, y) => {
            const left = tf.mul(tf.exp(x as Tensor), 2);
            const right = tf.square(tf.sigmoid(y as Tensor));
            return [tf.sub(left, right), tf.sum(right, 0), tf.matMul(left, right, true)];
          },
          [f32(2048, 128), f32(2048, 128)],
        ),
      ),
  ],
];

describe('row blocks', () => {
  it.each(cases)('give the same bits as whole tensors: %s', async (_name, make) => {
    const graph = make();
    expect(regionsOf(graph).length).toBeGreaterThan(0);
    const { blockwise, plain } = await both(graph);
    blockwise.forEach((values, i) => {
      expect(Buffer.compare(Buffer.from(values.buffer), Buffer.from((plain[i] as Float32Array).buffer))).toBe(0);
    });
  });

  it('are not made of small tensors, of single operators, or across rows', () => {
    expect(regionsOf(trace((x) => tf.exp(tf.tanh(tf.square(x as Tensor))), [f32(64, 64)]))).toEqual([]);
    expect(regionsOf(trace((x) => tf.exp(x as Tensor), [f32(1024, 1024)]))).toEqual([]);
    const acrossRows = trace((x) => tf.sum(tf.transpose(tf.sum(x as Tensor, 0, true)), 1), [f32(1024, 1024)]);
    expect(regionsOf(acrossRows)).toEqual([]);
  });
});

describe('outputs of regions', () => {
  const engines: Engine[] = [];
  afterAll(() => Promise.all(engines.map((engine) => engine.dispose())));

  it('have their own shape, in preallocated memory too', async () => {
    const engine = await createOnnxEngine({ device: 'cpu', threads: 1 });
    engines.push(engine);
    const run = await engine.compile((x) => tf.exp(tf.tanh(tf.square(x as Tensor))), [f32(1024, 256)]);
    const x = engine.upload({ dtype: 'float32', shape: [1024, 256], data: new Float32Array(262144).fill(0.5) });
    const [fresh] = (await run.run([x])) as [DeviceTensor];
    const [again] = (await run.run([x], [fresh])) as [DeviceTensor];
    expect(again).toBe(fresh);
    expect(again.shape).toEqual([1024, 256]);
    const host = engine.host(again);
    expect(host?.shape).toEqual([1024, 256]);
    expect(host?.data[262143]).toBeCloseTo(Math.exp(Math.tanh(0.25)), 5);
  });
});
