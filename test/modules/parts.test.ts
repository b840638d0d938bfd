import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import type { Module } from '../../src/modules/index.ts';
import { init, initParams, nn, param } from '../../src/modules/index.ts';
import type { Shape } from '../../src/tensor/index.ts';
import { createRng, float32 } from '../../src/tensor/index.ts';
import { runModule, wave } from './eager.ts';

beforeAll(() => tf.setBackend('cpu'));

describe('initialisers', () => {
  const draw = (make: ReturnType<typeof init.normal>, shape: Shape = [200, 300]) => make(createRng(1), shape);
  const mean = (v: Float32Array) => v.reduce((s, x) => s + x, 0) / v.length;
  const std = (v: Float32Array) => Math.sqrt(v.reduce((s, x) => s + x * x, 0) / v.length - mean(v) ** 2);

  it('have the spread that their papers give', () => {
    expect(std(draw(init.normal(0.5)))).toBeCloseTo(0.5, 2);
    expect(std(draw(init.xavierUniform()))).toBeCloseTo(Math.sqrt(2 / 500), 3);
    expect(std(draw(init.xavierNormal()))).toBeCloseTo(Math.sqrt(2 / 500), 3);
    expect(std(draw(init.kaimingUniform()))).toBeCloseTo(Math.sqrt(2 / 200), 3);
    expect(std(draw(init.kaimingNormal()))).toBeCloseTo(Math.sqrt(2 / 200), 3);
    expect(std(draw(init.kaimingNormal(), [3, 3, 50, 20]))).toBeCloseTo(Math.sqrt(2 / 450), 3);
    const truncated = draw(init.truncatedNormal(0.1));
    expect(Math.max(...truncated.map(Math.abs))).toBeLessThanOrEqual(0.2);
    expect(std(truncated)).toBeCloseTo(0.088, 3);
    for (const make of [init.normal(1), init.xavierUniform(), init.truncatedNormal(1)])
      expect(Math.abs(mean(draw(make)))).toBeLessThan(0.02);
  });

  it('give orthonormal rows or columns', () => {
    for (const [rows, columns] of [
      [6, 4],
      [4, 6],
      [5, 5],
    ] as const) {
      const q = tf.tensor2d(draw(init.orthogonal(2), [rows, columns]), [rows, columns]);
      const gram = rows >= columns ? tf.matMul(q, q, true, false) : tf.matMul(q, q, false, true);
      const difference = tf.max(tf.abs(tf.sub(gram, tf.mul(tf.eye(Math.min(rows, columns)), 4)))).dataSync()[0];
      expect(difference).toBeLessThan(1e-5);
    }
  });

  it('draw a parameter from the seed and its path only', () => {
    const spec = param([3, 4], init.normal(1));
    const together = initParams(
      [
        { path: 'b', spec },
        { path: 'a', spec },
      ],
      7,
    );
    expect(together.a?.data).toEqual(initParams([{ path: 'a', spec }], 7).a?.data);
    expect(together.a?.data).not.toEqual(together.b?.data);
    expect(together.a?.data).not.toEqual(initParams([{ path: 'a', spec }], 8).a?.data);
    expect(() => initParams([{ path: 'a', spec: param([2], () => new Float32Array(3)) }], 1)).toThrow(
      'the initializer of "a" returned 3 values',
    );
    expect(() => param([2, 0], init.zeros)).toThrow('dimension 0');
  });

  it('decay matrices, but not biases, gains and embeddings', () => {
    expect(nn.linear(2, 3).params).toMatchObject({ weight: { decay: true }, bias: { decay: false } });
    expect(nn.embedding(2, 3).params?.weight?.decay).toBe(false);
    expect(nn.layerNorm(3).params?.gain?.decay).toBe(false);
  });
});

describe('dropout', () => {
  const ones = float32(new Float32Array(20_000).fill(1), [100, 200]);

  it('drops its share, scales the rest, and passes gradients through what it keeps', async () => {
    const run = await runModule(nn.dropout(0.3), [ones], { gradients: true });
    const y = [...(run.activations[0]?.data ?? [])];
    const kept = y.filter((v) => v !== 0);
    expect(kept.length / y.length).toBeCloseTo(0.7, 1);
    expect(kept.every((v) => Math.abs(v - 1 / 0.7) < 1e-6)).toBe(true);
    expect(run.gradients.at(-1)?.data).toEqual(run.activations[0]?.data);
  });

  it('depends on the key only, and is off outside of training', async () => {
    const data = async (key: [number, number], training = true) =>
      (await runModule(nn.dropout(0.5), [ones], { key, training })).activations[0]?.data;
    expect(await data([1, 2])).toEqual(await data([1, 2]));
    expect(await data([1, 2])).not.toEqual(await data([1, 3]));
    expect(await data([1, 2], false)).toEqual(ones.data);
    expect(() => nn.dropout(1)).toThrow('at least 0 and below 1, not 1');
  });
});

describe('batch norm', () => {
  it('moves its running statistics towards the mean over microbatches', async () => {
    const module = nn.batchNorm(2, { momentum: 0.1 });
    const parts = await Promise.all([wave([6, 2], 1), wave([6, 2], 2)].map((x) => runModule(module, [x])));
    const sum = tf.addN(parts.map((p) => tf.tensor1d(p.contributions['m.mean']?.data as Float32Array)));
    const update = module.state?.mean?.update as (s: tf.Tensor, c: tf.Tensor, m: number) => tf.Tensor;
    const next = [...update(tf.tensor1d([1, 2]), sum, 2).dataSync()];
    const values = [...(wave([6, 2], 1).data as Float32Array), ...(wave([6, 2], 2).data as Float32Array)];
    const mean = (channel: number) => values.filter((_, i) => i % 2 === channel).reduce((a, b) => a + b) / 12;
    expect(next[0]).toBeCloseTo(0.9 * 1 + 0.1 * mean(0), 5);
    expect(next[1]).toBeCloseTo(0.9 * 2 + 0.1 * mean(1), 5);
  });

  it('uses them in evaluation and contributes nothing', async () => {
    const state = { 'm.mean': float32([1, 2], [2]), 'm.variance': float32([4, 9], [2]) };
    const run = await runModule(nn.batchNorm(2, { eps: 0 }), [float32([3, 5, 1, 2], [2, 2])], {
      training: false,
      state,
    });
    expect([...(run.activations[0]?.data ?? [])].map((v) => Math.round(v * 1e5) / 1e5)).toEqual([1, 1, 0, 0]);
    expect(run.contributions).toEqual({});
  });
});

describe('combinators', () => {
  const times = (factor: number): Module => ({ kind: 'times', forward: (_p, [x]) => tf.mul(x as tf.Tensor, factor) });
  const out = async (module: Module) => [
    ...((await runModule(module, [float32([1, 2], [1, 2])])).activations[0]?.data ?? []),
  ];

  it('compose modules', async () => {
    expect(await out(nn.sequential([times(2), times(3)]))).toEqual([6, 12]);
    expect(await out(nn.residual(times(2)))).toEqual([3, 6]);
    expect(await out(nn.parallel({ a: times(2), b: times(5) }, 'sum'))).toEqual([7, 14]);
    expect(await out(nn.parallel([times(2), times(5)], 'concat'))).toEqual([2, 4, 5, 10]);
    expect(await out(nn.repeat(3, (i) => times(i + 1)))).toEqual([6, 12]);
  });
});

describe('attention', () => {
  it('does not look ahead when causal', async () => {
    const module = nn.attention({ dim: 8, heads: 2, rotary: true, init: init.normal(0.5) });
    const x = wave([1, 5, 8]);
    const changed = { ...x, data: (x.data as Float32Array).map((v, i) => (i >= 24 ? v + 1 : v)) };
    const [a, b] = [await runModule(module, [x]), await runModule(module, [changed])].map((r) =>
      r.activations[0]?.data.slice(0, 24),
    );
    expect(a).toEqual(b);
  });

  it('with rotary positions depends on distances only', () => {
    const tables = nn.rotaryTables(9, 8, 10_000, 1);
    const q = tf.tile(tf.tensor(wave([1, 8], 1).data as Float32Array, [1, 8]), [9, 1]);
    const k = tf.tile(tf.tensor(wave([1, 8], 2).data as Float32Array, [1, 8]), [9, 1]);
    const scores = tf.matMul(nn.rotate(q, tables), nn.rotate(k, tables), false, true).arraySync() as number[][];
    for (let t = 0; t < 6; t++) expect(scores[t + 2]?.[t]).toBeCloseTo(scores[t + 3]?.[t + 1] as number, 4);
    expect(Math.abs((scores[2]?.[0] as number) - (scores[6]?.[0] as number))).toBeGreaterThan(1e-3);
  });

  it('refuses heads that do not divide', () => {
    expect(() => nn.attention({ dim: 10, heads: 3 })).toThrow('dim 10 is not a multiple of heads 3');
    expect(() => nn.attention({ dim: 12, heads: 4, kvHeads: 3 })).toThrow('heads 4 is not a multiple of kvHeads 3');
    expect(() => nn.attention({ dim: 6, heads: 2, rotary: true })).toThrow('even head width, not 3');
  });
});
