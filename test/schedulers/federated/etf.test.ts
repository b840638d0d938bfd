import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { dataSchema, openDataset, type PreparedData, pathological, prepareData } from '../../../src/data/index.ts';
import { createEngine, type Engine } from '../../../src/engine/index.ts';
import { buildModel, initParams, layerKey, modelParams } from '../../../src/modules/index.ts';
import { buildOptimizer, type OptimConfig, optimSchema } from '../../../src/optim/index.ts';
import { FitPool, fedetf, fineTune } from '../../../src/schedulers/federated/index.ts';
import {
  balancedSoftmax,
  classCounts,
  etf,
  type LocalObjective,
  LocalTrainer,
  partOf,
  TUNE,
  vectorLayout,
} from '../../../src/schedulers/local/index.ts';
import { float32, int32 } from '../../../src/tensor/index.ts';

const engine: Engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
let data: PreparedData;
beforeAll(async () => {
  data = await prepareData(dataSchema.parse({ name: 'mnist', limit: 1500, validation: 0.1 }));
});
const pools: FitPool[] = [];
afterAll(async () => {
  await engine.dispose();
  for (const pool of pools) await pool.close();
});

describe('the balanced loss', () => {
  const [features, classes, examples] = [4, 3, 12];
  const info = {
    inputs: [{ dtype: 'float32', shape: [features] }],
    targets: [{ dtype: 'int32', shape: [] }],
    classes,
  } as const;
  const x = Float32Array.from({ length: examples * features }, (_, i) => Math.sin(i * 2.3));
  // No example of the last class.
  const labels = Int32Array.from({ length: examples }, (_, i) => (i % 4 === 0 ? 1 : 0));
  const split = {
    name: 'train' as const,
    examples,
    labels,
    batch: (indices: Int32Array) => ({
      inputs: [
        float32(Float32Array.from([...indices].flatMap((i) => [...x.subarray(i * features, (i + 1) * features)])), [
          indices.length,
          features,
        ]),
      ],
      targets: [
        int32(
          indices.map((i) => labels[i] as number),
          [indices.length],
        ),
      ],
    }),
  };

  async function trained(objective: LocalObjective, counts: Float32Array) {
    const { model } = await buildModel({ name: 'mlp', args: { hidden: [] } } as never, info);
    const optimizer = buildOptimizer(optimSchema.parse({ name: 'sgd', lr: 0.5, momentum: 0 }) as OptimConfig, {
      totalSteps: 10,
    });
    const trainer = new LocalTrainer({ engine, model, info, optimizer, objective });
    const drawn = initParams(modelParams(model), 3);
    const vector = new Float32Array(trainer.layout.size);
    for (const place of trainer.layout.places) partOf(vector, place).set(drawn[place.path]?.data as Float32Array);
    const { state, losses } = await trainer.train(
      trainer.upload(vector, new Float32Array(0)),
      {
        split,
        batches: [Int32Array.of(0, 1, 2, 3, 4, 5)],
        first: 0,
        key: (step) => layerKey(1, step, 0, 'test'),
      },
      new Map([['counts', trainer.objectiveTensors('counts', counts)]]),
    );
    return { before: vector, after: await trainer.vector(state.params, trainer.layout), loss: losses[0] as number };
  }

  /** -log of n_y^γ exp z_y over the sum of n_c^γ exp z_c, and one step of gradient descent, in plain loops. */
  function byHand(vector: Float32Array, counts: readonly number[], gamma: number) {
    const gradient = new Float64Array(vector.length);
    const batch = [0, 1, 2, 3, 4, 5];
    let loss = 0;
    for (const e of batch) {
      const input = x.subarray(e * features, (e + 1) * features);
      const logits = Array.from({ length: classes }, (_, c) =>
        input.reduce(
          (sum, value, f) => sum + value * (vector[classes + f * classes + c] as number),
          vector[c] as number,
        ),
      );
      const shares = logits.map((logit, c) => (counts[c] as number) ** gamma * Math.exp(logit));
      const total = shares.reduce((a, b) => a + b, 0);
      const y = labels[e] as number;
      loss -= Math.log((shares[y] as number) / total) / batch.length;
      shares.forEach((share, c) => {
        const d = (share / total - (c === y ? 1 : 0)) / batch.length;
        gradient[c] = (gradient[c] as number) + d;
        input.forEach((value, f) => {
          const at = classes + f * classes + c;
          gradient[at] = (gradient[at] as number) + d * value;
        });
      });
    }
    return { loss, after: vector.map((value, i) => value - 0.5 * (gradient[i] as number)) };
  }

  it.each([0.5, 1, 2])(
    'with power %f is that of the slow formula, and leaves classes alone that are absent',
    async (gamma) => {
      const counts = classCounts(
        labels,
        Int32Array.from({ length: examples }, (_, i) => i),
        classes,
      );
      expect([...counts]).toEqual([9, 3, 0]);
      const { before, after, loss } = await trained(balancedSoftmax(gamma), counts);
      const expected = byHand(before, [...counts], gamma);
      expect(loss).toBeCloseTo(expected.loss, 5);
      after.forEach((value, i) => {
        expect(value).toBeCloseTo(expected.after[i] as number, 5);
      });
      // What belongs to the absent class: its bias, and its column of the weights.
      for (let f = -1; f < features; f++) expect(after[(f + 1) * classes + 2]).toBe(before[(f + 1) * classes + 2]);
    },
  );

  it('with power 0 is the plain loss', async () => {
    const { before, after, loss } = await trained(balancedSoftmax(0), Float32Array.of(9, 3, 0));
    const expected = byHand(before, [1, 1, 1], 0);
    expect(loss).toBeCloseTo(expected.loss, 5);
    after.forEach((value, i) => {
      expect(value).toBeCloseTo(expected.after[i] as number, 5);
    });
  });
});

describe('FedETF', () => {
  it('trains all but the directions in rounds, and fine-tunes directions and projection alone', async () => {
    const model = {
      name: 'mlp',
      args: { hidden: [16], head: { kind: 'etf', dim: 12, temperature: 10, trainable: true } },
    };
    const dataset = openDataset(data);
    const built = await buildModel(model as never, dataset.info);
    const layout = vectorLayout(modelParams(built.model));
    const settings = fedetf.config.parse({ tuning_turns: 1, tuning_epochs: 2 });
    expect(fedetf.unsuited?.(settings, { params: layout, state: vectorLayout([]), clients: 1, seed: 1 })).toBeNull();
    const pool = await FitPool.start({
      job: {
        seed: 3,
        model,
        optim: optimSchema.parse({ name: 'sgd', lr: 0.1, momentum: 0 }),
        data,
        engine: { kind: 'onnx', device: 'cpu', threads: 1 },
        objective: fedetf.objective?.(settings) ?? { name: 'none', config: {} },
        batch: 10,
      },
      threads: 1,
    });
    pools.push(pool);
    const drawn = initParams(modelParams(built.model), 5);
    let params = new Float32Array(layout.size);
    for (const place of layout.places) partOf(params, place).set(drawn[place.path]?.data as Float32Array);
    const none = new Float32Array(0);
    const split = dataset.split('train');
    const all = pathological(
      { examples: split.examples, labels: split.labels ?? null },
      { clients: 6, classes: 2, seed: 2 },
    );
    const clients = [0, 1, 2, 3, 4, 5];
    const [train, measured] = [0, 1].map((part) => ({
      ...all,
      size: (client: number) => all.examples(client).filter((_, i) => (i % 4 === 0) === (part === 1)).length,
      examples: (client: number) => all.examples(client).filter((_, i) => (i % 4 === 0) === (part === 1)),
    })) as [typeof all, typeof all];
    const fits = clients.map((client) => ({
      client,
      round: 0,
      examples: train.examples(client),
      epochs: 1,
      maxSteps: null,
      firstStep: 0,
      weight: 1,
      clipNorm: null,
      kept: {},
    }));
    const moved = (update: Float32Array) =>
      layout.places.filter((place) => partOf(update, place).some((value) => value !== 0)).map(({ path }) => path);
    const { sum } = await pool.sum(pool.publish(params, none), fits);
    const rest = layout.places.map(({ path }) => path).filter((path) => path !== 'head.etf.frame');
    expect(moved(sum as Float32Array)).toEqual(rest);
    params = params.map((value, i) => value + ((sum as Float32Array)[i] as number) / clients.length);

    // The same fit with and without: what fine-tuning changes after it.
    const tuned = pool.publish(params, none, { [TUNE]: Float32Array.of(1) });
    const updateOf = async (published: typeof tuned) =>
      ((await pool.each(published, fits.slice(0, 1)))[0] as { update: Float32Array }).update;
    const plain = await updateOf(pool.publish(params, none));
    const difference = (await updateOf(tuned)).map((value, i) => value - (plain[i] as number));
    expect(moved(difference)).toEqual(['head.etf.frame', 'head.etf.projection.bias', 'head.etf.projection.weight']);

    const results = await fineTune({
      pool,
      params,
      state: none,
      tensors: { [TUNE]: Float32Array.of(1) },
      train,
      measured,
      clients,
      epochs: 1,
      round: 1,
    });
    expect(results.map(({ client }) => client)).toEqual(clients);
    const accuracy = (of: 'before' | 'after') =>
      results.reduce((total, result) => total + (result[of].correct ?? 0) / result[of].examples, 0) / results.length;
    expect(accuracy('after')).toBeGreaterThan(accuracy('before') + 0.05);
    expect(accuracy('after')).toBeGreaterThan(0.9);
  });

  it('needs a classifier with a frame', () => {
    const settings = fedetf.config.parse({});
    const shape = {
      params: vectorLayout([{ path: 'w', spec: { shape: [3] } }]),
      state: vectorLayout([]),
      clients: 1,
      seed: 1,
    };
    expect(fedetf.unsuited?.(settings, shape)).toMatch(/head: \{ kind: etf \}/);
    expect(etf(1, { turns: 2, epochs: 1 }).passes).toHaveLength(5);
  });
});
