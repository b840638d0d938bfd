import * as tf from '@tensorflow/tfjs-core';
import * as tfl from '@tensorflow/tfjs-layers';
import { afterAll, describe, expect, it } from 'vitest';
import type { Signature } from '../../src/engine/index.ts';
import { createEngine } from '../../src/engine/index.ts';
import type { Module, TaskInfo } from '../../src/modules/index.ts';
import {
  buildModel,
  evaluationKey,
  init,
  initParams,
  initState,
  layerFunction,
  modelFunctions,
  modelParams,
  nn,
  param,
  wrapLayersModel,
} from '../../src/modules/index.ts';
import type { HostTensor } from '../../src/tensor/index.ts';
import { float32, int32 } from '../../src/tensor/index.ts';
import { runModule, type Values, wave } from './eager.ts';
import { DIM, inlined } from './inlined-experts.ts';
import { compileLayer, runPhases } from './phased.ts';

const engine = createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
afterAll(async () => (await engine).dispose());

/** tanh(x · W): what `inlined` computes for each expert. */
const tanhExpert: Module = {
  kind: 'tanhExpert',
  params: { weight: param([DIM, DIM], init.normal(0.5)) },
  forward: ({ weight }, [x]) => tf.tanh(tf.matMul(x as tf.Tensor2D, weight as tf.Tensor2D)),
};

async function compiled(
  module: Module,
  inputs: readonly HostTensor[],
  params: Readonly<Record<string, HostTensor>>,
  cotangents: HostTensor[],
  key = evaluationKey(),
) {
  const signature = inputs.map((t): Signature => ({ dtype: t.dtype as Signature['dtype'], shape: t.shape }));
  const fn = layerFunction({ name: 'm', module }, signature, { training: true });
  const given = { ...initParams(fn.params, 1), ...initState(fn.state, 1), ...params };
  const own = [...fn.params, ...fn.state].map(({ path }) => given[path] as HostTensor);
  const phased = await compileLayer(await engine, fn);
  return { fn, ...(await runPhases(await engine, fn, phased, [...own, key, ...inputs], cotangents, params)) };
}

function same(actual: HostTensor | null | undefined, expected: Values | null | undefined, what: string): void {
  expect(actual?.shape, what).toEqual(expected?.shape);
  const scale = Math.max(1, ...(expected?.data ?? []).map(Math.abs));
  const worst = Math.max(...[...(expected?.data ?? [])].map((v, i) => Math.abs(v - Number(actual?.data[i]))));
  expect(worst / scale, what).toBeLessThan(3e-6);
}

describe('a compiled mixture, its experts served from outside', () => {
  const experts = 4;
  const weights = wave([experts, DIM, DIM], 2);
  const own = Object.fromEntries(
    Array.from({ length: experts }, (_, e) => [
      `m.experts.${e}.weight`,
      float32((weights.data as Float32Array).slice(e * DIM * DIM, (e + 1) * DIM * DIM), [DIM, DIM]),
    ]),
  );
  const cases: [string, Partial<nn.MoeOptions> & { topK: number }, HostTensor][] = [
    ['top 2 with losses', { topK: 2, balanceLoss: 0.1, zLoss: 0.1 }, wave([DIM, experts], 5)],
    ['top 1', { topK: 1 }, wave([DIM, experts], 6)],
    ['capacity by position', { topK: 2, capacityFactor: 0.7 }, wave([DIM, experts], 5)],
    ['capacity by score', { topK: 2, capacityFactor: 0.7, dropPolicy: 'probs' }, wave([DIM, experts], 5)],
    ['experts without tokens', { topK: 1 }, float32(new Float32Array(DIM * experts), [DIM, experts])],
  ];
  for (const [name, options, router] of cases)
    it(`equals the same one computed inside the layer: ${name}`, async () => {
      const x = wave([3, 4, DIM], 1);
      const cotangents = [wave([3, 4, DIM], 9)];
      const moe = nn.moe({ dim: DIM, experts: Array.from({ length: experts }, () => tanhExpert), ...options });
      const run = await compiled(moe, [x], { ...own, 'm.router.weight': router }, cotangents);
      const expected = await runModule(inlined(moe, experts), [x], {
        params: { 'm.experts': weights, 'm.router.weight': router },
        cotangents,
        gradients: true,
      });
      same(run.outputs[0], expected.activations[0], 'output');
      expect(run.outputs[1]?.data[0]).toBeCloseTo(expected.objective, 5);
      const at = expected.fn.params.findIndex((p) => p.path === 'm.router.weight');
      same(run.gradients[0], expected.gradients[at], 'gradient of the router');
      same(run.gradients.at(-1), expected.gradients.at(-1), 'gradient of the input');
      const all = expected.gradients[expected.fn.params.findIndex((p) => p.path === 'm.experts')] as Values;
      for (let e = 0; e < experts; e++) {
        const slice = all.data.slice(e * DIM * DIM, (e + 1) * DIM * DIM);
        same(
          run.expertGradients[`m.experts.${e}.weight`],
          { shape: [DIM, DIM], data: slice },
          `gradient of expert ${e}`,
        );
      }
      for (const [i, { name: metric }] of run.fn.layout.metrics.entries())
        same(run.outputs[2 + i], expected.metrics[metric], metric);
    });
});

describe('compiled', () => {
  it('dropout draws the same bits as in tfjs', async () => {
    const x = wave([7, 5]);
    const run = await compiled(nn.dropout(0.4), [x], {}, [wave([7, 5], 1)], int32([11, -5], [2]));
    const expected = await runModule(nn.dropout(0.4), [x], { key: [11, -5] });
    expect(run.outputs[0]?.data).toEqual(expected.activations[0]?.data);
  });

  it('routing breaks ties by the number of the expert', async () => {
    const probe: Module = {
      kind: 'probe',
      forward: (_p, [logits]) => tf.sum(nn.route(logits, null, { topK: 2 }).chosen, 1),
    };
    const run = await compiled(probe, [float32(new Float32Array(40), [4, 10])], {}, []);
    expect([...(run.outputs[0]?.data ?? [])]).toEqual(Array.from({ length: 40 }, (_, i) => (i % 10 < 2 ? 1 : 0)));
  });

  it('a layer that returns its input, and one without an objective, run', async () => {
    const x = wave([2, 3]);
    const run = await compiled(nn.sequential([]), [x], {}, [wave([2, 3], 4)]);
    expect(run.outputs[0]?.data).toEqual(x.data);
    expect(run.outputs[1]?.data[0]).toBe(0);
    expect(run.gradients.at(-1)?.data).toEqual(wave([2, 3], 4).data);
  });
});

describe('every zoo model', () => {
  const text: TaskInfo = {
    inputs: [{ dtype: 'int32', shape: [6] }],
    targets: [{ dtype: 'int32', shape: [6] }],
    vocabSize: 9,
  };
  const images: TaskInfo = {
    inputs: [{ dtype: 'float32', shape: [8, 8, 1] }],
    targets: [{ dtype: 'int32', shape: [] }],
    classes: 4,
  };
  const cases: [string, Record<string, unknown>, TaskInfo][] = [
    [
      'transformer-lm',
      { layers: 1, dim: 8, heads: 4, kv_heads: 2, dropout: 0.1, ffn: { kind: 'swiglu' }, norm: 'rms' },
      text,
    ],
    [
      'transformer-lm',
      { layers: 1, dim: 8, heads: 2, positions: 'learned', moe: { every: 1, bias_rate: 0.1, shared: 4 } },
      text,
    ],
    ['transformer-lm', { layers: 1, dim: 8, heads: 2, moe: { every: 1, routing: 'expert' } }, text],
    ['lstm-lm', { dim: 4, hidden: 5, dropout: 0.1 }, text],
    ['gru-lm', { dim: 4, hidden: 5, layers: 2 }, text],
    ['mlp', { hidden: [7, 5], dropout: 0.2 }, images],
    ['spiking-mlp', { hidden: [7, 5], steps: 3 }, images],
    ['cnn', { channels: [3, 4], norm: 'batch', dropout: 0.1 }, images],
    ['cnn', { channels: [3], pool: 'average', hidden: null }, images],
  ];
  for (const [name, args, info] of cases)
    it(`compiles, and its parameters get gradients: ${name} ${JSON.stringify(args)}`, async () => {
      const { model } = await buildModel({ name, args }, info);
      const params = initParams(modelParams(model), 1);
      const batch = 3;
      let activations: HostTensor[] = [];
      for (const fn of modelFunctions(model, info, batch, 'train')) {
        const last = fn.layout.activations.length === 0;
        const own = fn.params.map(({ path }) => params[path] as HostTensor);
        const state = Object.values(initState(fn.state, 1));
        const [inputs, targets] = [info.inputs, info.targets].map((list) => list.map((s) => exampleOf(s, batch)));
        const given = [
          ...own,
          ...state,
          int32([5, 6], [2]),
          ...(activations.length > 0 ? activations : (inputs ?? [])),
        ];
        const phased = await compileLayer(await engine, fn, last && fn.expertCalls.length === 0);
        const all = [...given, ...(last ? (targets ?? []) : [])];
        const cotangents = fn.layout.activations.map((s, i) => wave(s.shape, i + 3));
        const run = await runPhases(await engine, fn, phased, all, cotangents, params);
        for (const output of run.outputs) expect([...output.data].every((v) => Number.isFinite(Number(v)))).toBe(true);
        for (const [i, { path }] of fn.params.entries())
          expect(
            run.gradients[i]?.data.some((g: number | bigint) => g !== 0),
            path,
          ).toBe(true);
        activations = run.outputs.slice(0, fn.layout.objective);
      }
    });

  it('compiles a wrapped tfjs model to what tfjs computes', async () => {
    await tf.setBackend('cpu');
    const model = tfl.sequential({
      layers: [
        tfl.layers.conv2d({ inputShape: [6, 6, 2], filters: 3, kernelSize: 3, activation: 'relu', name: 'conv' }),
        tfl.layers.depthwiseConv2d({ kernelSize: 2, name: 'depthwise' }),
        tfl.layers.reshape({ targetShape: [9, 3] }),
        tfl.layers.lstm({ units: 4, name: 'lstm' }),
        tfl.layers.layerNormalization({ name: 'norm' }),
        tfl.layers.dense({ units: 4, activation: 'elu', name: 'out' }),
      ],
    });
    const layers = wrapLayersModel(model, { weights: 'current' });
    const module = nn.sequential(Object.fromEntries(layers.map((l) => [l.name, l.module])));
    const x = wave([3, 6, 6, 2]);
    const run = await compiled(module, [x], {}, [wave([3, 4], 2)]);
    await tf.setBackend('cpu');
    const expected = (model.predict(tf.tensor(x.data as Float32Array, [3, 6, 6, 2])) as tf.Tensor).dataSync();
    same(run.outputs[0], { shape: [3, 4], data: expected as Float32Array }, 'output');
    for (const [i, { path }] of run.fn.params.entries())
      expect(run.gradients[i]?.shape, path).toEqual(run.fn.params[i]?.spec.shape);
  });
});

function exampleOf(signature: Signature, batch: number): HostTensor {
  const shape = [batch, ...signature.shape];
  return signature.dtype === 'float32'
    ? wave(shape, 1)
    : int32(
        Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => (i * 7 + 1) % 4),
        shape,
      );
}
