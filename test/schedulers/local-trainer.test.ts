import { afterAll, describe, expect, it } from 'vitest';
import type { Split } from '../../src/data/index.ts';
import { createEngine, type Engine, tf } from '../../src/engine/index.ts';
import { buildModel, initParams, layerKey, modelParams, type TaskInfo } from '../../src/modules/index.ts';
import { buildOptimizer, type OptimConfig, optimSchema } from '../../src/optim/index.ts';
import {
  alternating,
  chunks,
  composeObjectives,
  type LocalObjective,
  LocalTrainer,
  mixture,
  objectiveNamed,
  ownModel,
  partOf,
  personalLayers,
  plainObjective,
} from '../../src/schedulers/local/index.ts';
import { float32, int32 } from '../../src/tensor/index.ts';

const [features, classes, examples] = [6, 3, 40];
const info: TaskInfo = {
  inputs: [{ dtype: 'float32', shape: [features] }],
  targets: [{ dtype: 'int32', shape: [] }],
  classes,
};
const x = Float32Array.from({ length: examples * features }, (_, i) => Math.fround(Math.sin(i * 1.7)));
const y = Int32Array.from({ length: examples }, (_, i) => (i * 7) % classes);
const split: Split = {
  name: 'train',
  examples,
  batch: (indices) => ({
    inputs: [
      float32(Float32Array.from([...indices].flatMap((i) => [...x.subarray(i * features, (i + 1) * features)])), [
        indices.length,
        features,
      ]),
    ],
    targets: [
      int32(
        Int32Array.from(indices, (i) => y[i] as number),
        [indices.length],
      ),
    ],
  }),
};
const engine: Engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
afterAll(() => engine.dispose());

const optimizer = (settings: object) => buildOptimizer(optimSchema.parse(settings) as OptimConfig, { totalSteps: 100 });

async function trainer(
  objective: LocalObjective,
  options: { hidden?: number[]; unroll?: number; optim?: object } = {},
) {
  const { model } = await buildModel({ name: 'mlp', args: { hidden: options.hidden ?? [] } } as never, info);
  const made = new LocalTrainer({
    engine,
    model,
    info,
    optimizer: optimizer(options.optim ?? { name: 'sgd', lr: 0.5, momentum: 0, weight_decay: 0 }),
    objective,
    ...(options.unroll === undefined ? {} : { unroll: options.unroll }),
  });
  const initial = initParams(modelParams(model), 3);
  const vector = new Float32Array(made.layout.size);
  for (const place of made.layout.places) partOf(vector, place).set(initial[place.path]?.data as Float32Array);
  return { made, vector };
}

const batches = (...sizes: number[]) => {
  let at = 0;
  return sizes.map((size) => Int32Array.from({ length: size }, () => at++ % examples));
};
const key = (step: number) => layerKey(1, step, 0, 'local');

/** Softmax regression by hand: gradient descent on the mean cross-entropy, with a correction of the gradient. */
function byHand(
  vector: Float32Array,
  steps: readonly Int32Array[],
  lr: number,
  correct: (gradient: number, weight: number, index: number) => number = (gradient) => gradient,
) {
  // Places in path order: head.linear.bias, head.linear.weight [features, classes].
  let weights = Float64Array.from(vector);
  const losses = steps.map((batch) => {
    const gradient = new Float64Array(weights.length);
    let loss = 0;
    for (const e of batch) {
      const input = x.subarray(e * features, (e + 1) * features);
      const logits = Array.from({ length: classes }, (_, c) =>
        input.reduce(
          (sum, value, f) => sum + value * (weights[classes + f * classes + c] as number),
          weights[c] as number,
        ),
      );
      const sum = logits.reduce((total, logit) => total + Math.exp(logit), 0);
      loss -= Math.log(Math.exp(logits[y[e] as number] as number) / sum) / batch.length;
      logits.forEach((logit, c) => {
        const d = (Math.exp(logit) / sum - (y[e] === c ? 1 : 0)) / batch.length;
        gradient[c] = (gradient[c] as number) + d;
        input.forEach((value, f) => {
          const at = classes + f * classes + c;
          gradient[at] = (gradient[at] as number) + d * value;
        });
      });
    }
    weights = weights.map((weight, i) => weight - lr * correct(gradient[i] as number, weight, i));
    return loss;
  });
  return { weights, losses };
}

const close = (found: ArrayLike<number>, expected: ArrayLike<number>, digits = 5) => {
  expect(found.length).toBe(expected.length);
  for (let i = 0; i < expected.length; i++) expect(found[i]).toBeCloseTo(expected[i] as number, digits);
};

describe('local training', () => {
  it('is gradient descent on the batches given, whatever their sizes', async () => {
    const { made, vector } = await trainer(plainObjective);
    const steps = batches(5, 5, 5, 3, 5, 5, 1);
    const start = made.upload(vector, new Float32Array(0));
    const { state, losses } = await made.train(start, { split, batches: steps, first: 0, key }, new Map());
    const expected = byHand(vector, steps, 0.5);
    close(await made.vector(state.params, made.layout), expected.weights);
    close(losses, expected.losses);
    // The start is still there for the next client.
    close(await made.vector(start.params, made.layout), vector, 7);
  });

  it.each([
    { name: 'sgd', lr: 0.1, momentum: 0.9 },
    { name: 'adamw', lr: 0.01 },
    { name: 'sgd', lr: 0.1, clip_norm: 0.2 },
  ])('has the same bits however many steps are compiled together: %o', async (optim) => {
    const results = [];
    for (const unroll of [1, 2, 8]) {
      const { made, vector } = await trainer(plainObjective, { hidden: [9], unroll, optim });
      const { state, losses } = await made.train(
        made.upload(vector, new Float32Array(0)),
        { split, batches: batches(...new Array<number>(11).fill(4), 2), first: 0, key },
        new Map(),
      );
      results.push([...(await made.vector(state.params, made.layout)), ...losses]);
    }
    expect(results[1]).toEqual(results[0]);
    expect(results[2]).toEqual(results[0]);
  });

  it('adds penalties, transforms gradients and keeps tensors of its own', async () => {
    const mu = 0.3;
    const objective: LocalObjective = {
      name: 'test',
      tensors: [
        { name: 'anchor', shape: 'param', scope: 'start' },
        { name: 'server', shape: 'param', scope: 'round' },
        { name: 'own', shape: 'param', scope: 'client' },
      ],
      penalty: (param, { anchor }) => tf.mul(tf.sum(tf.square(tf.sub(param, anchor as tf.Tensor))), mu / 2),
      transform: (gradient, _, { server, own }) => tf.add(gradient, tf.sub(server as tf.Tensor, own as tf.Tensor)),
      after: ({ start, param, tensors, length, lr }) => ({
        own: tf.add(tensors.own as tf.Tensor, tf.div(tf.sub(start, param), tf.mul(length, lr))),
      }),
    };
    const { made, vector } = await trainer(objective);
    const start = made.upload(vector, new Float32Array(0));
    const server = Float32Array.from(vector, (_, i) => Math.fround(Math.cos(i) / 10));
    const own = Float32Array.from(vector, (_, i) => Math.fround(Math.sin(i) / 10));
    const tensors = new Map([
      ['anchor', start.params],
      ['server', made.objectiveTensors('server', server)],
      ['own', made.objectiveTensors('own', own)],
    ]);
    const steps = batches(8, 8, 8);
    const { state } = await made.train(start, { split, batches: steps, first: 0, key }, tensors);
    const end = await made.vector(state.params, made.layout);
    const expected = byHand(
      vector,
      steps,
      0.5,
      (gradient, weight, i) =>
        gradient + mu * (weight - (vector[i] as number)) + (server[i] as number) - (own[i] as number),
    );
    close(end, expected.weights);
    const after = await made.after(start, state, tensors, 3, 0.5);
    close(
      after.get('own') as Float32Array,
      own.map((value, i) => value + ((vector[i] as number) - (end[i] as number)) / 1.5),
    );
  });

  it("keeps SCAFFOLD's variate at the size of a gradient, also where clients have momentum", async () => {
    for (const momentum of [0, 0.5]) {
      const { made, vector } = await trainer(objectiveNamed('control-variates', {}), {
        optim: { name: 'sgd', lr: 1e-4, momentum, weight_decay: 0 },
      });
      const start = made.upload(vector, new Float32Array(0));
      const zeros = new Float32Array(vector.length);
      const tensors = new Map(['server', 'own'].map((name) => [name, made.objectiveTensors(name, zeros)]));
      const steps = Array.from({ length: 6 }, () => batches(8)[0] as Int32Array);
      const { state } = await made.train(start, { split, batches: steps, first: 0, key }, tensors);
      const own = (await made.after(start, state, tensors, steps.length, 1e-4)).get('own') as Float32Array;
      // Steps are so small that all have the gradient of the first: what one step of rate 1 would subtract.
      const { weights } = byHand(vector, steps.slice(0, 1), 1);
      const gradient = vector.map((value, i) => value - (weights[i] as number));
      own.forEach((value, i) => {
        expect(Math.abs(value - (gradient[i] as number))).toBeLessThan(2e-3);
      });
    }
  });

  it('has the same bits whether an objective is alone or composed with another', async () => {
    const objectives = [mixture({ alpha: 0.4, adaptive: true }), personalLayers(['nothing'])];
    const ends: Float32Array[][] = [];
    for (const objective of [objectives[0] as LocalObjective, composeObjectives(objectives)]) {
      const { made, vector } = await trainer(objective, { hidden: [5] });
      const start = made.upload(vector, new Float32Array(0));
      const tensors = new Map(made.tensorsOf.map((tensor) => [tensor.name, made.initialTensors(tensor, start)]));
      const { state, moved } = await made.train(start, { split, batches: batches(6, 6, 6), first: 0, key }, tensors);
      const kept = made.tensorsOf.map((tensor) => made.values(tensor, moved.get(tensor.name) ?? []));
      const own = await made.own(start, moved);
      ends.push([...(await Promise.all(kept)), await made.vector(own, made.layout)]);
      ends.at(-1)?.push(await made.vector(state.params, made.layout));
    }
    expect(ends[0]?.[1]).toHaveLength(1);
    expect(ends[0]?.[1]?.[0]).not.toBe(Math.fround(0.4));
    expect(ends[1]).toEqual(ends[0]);
    expect(() => composeObjectives([ownModel(1, null), alternating(['head.*'], 1)])).toThrow(
      'own-model and alternating each have passes of their own',
    );
  });

  it('trains only what a pass trains', async () => {
    const { made, vector } = await trainer(alternating(['head.*'], 1), {
      hidden: [5],
      optim: { name: 'adamw', lr: 0.1 },
    });
    const start = made.upload(vector, new Float32Array(0));
    const [head] = alternating(['head.*'], 1).passes ?? [];
    const { state } = await made.train(start, { split, batches: batches(6, 6), first: 0, key }, new Map(), head);
    const end = await made.vector(state.params, made.layout);
    for (const place of made.layout.places)
      if (place.path.startsWith('head.')) expect(partOf(end, place)).not.toEqual(partOf(vector, place));
      else expect(partOf(end, place)).toEqual(partOf(vector, place));
    const nothing = alternating(['hed.*'], 1).passes?.[0];
    await expect(made.train(start, { split, batches: batches(6), first: 0, key }, new Map(), nothing)).rejects.toThrow(
      'the pass "personal" trains none of the parameters (head.linear.bias',
    );
  });

  it('says what is missing', async () => {
    const objective: LocalObjective = { name: 'needy', tensors: [{ name: 'teacher', shape: 'param', scope: 'round' }] };
    const { made, vector } = await trainer(objective);
    const start = made.upload(vector, new Float32Array(0));
    await expect(made.train(start, { split, batches: batches(2), first: 0, key }, new Map())).rejects.toThrow(
      'objective "needy" needs its tensor "teacher"',
    );
    expect(() => made.upload(vector.subarray(1), new Float32Array(0))).toThrow(
      /20 numbers was given for tensors of 21/,
    );
  });
});

describe('cutting steps into runs', () => {
  it('puts equal sizes together, so many at a time and the rest in one', () => {
    const cut = chunks(batches(5, 5, 5, 5, 5, 5, 5, 3, 5), 4);
    expect(cut.map(({ size, start, steps }) => [size, start, steps])).toEqual([
      [5, 0, 4],
      [5, 4, 3],
      [3, 7, 1],
      [5, 8, 1],
    ]);
  });
});
