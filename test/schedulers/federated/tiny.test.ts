import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { dataSchema, openDataset, type PreparedData, prepareData } from '../../../src/data/index.ts';
import {
  buildModel,
  initParams,
  initState,
  modelParams,
  modelState,
  type TaskInfo,
} from '../../../src/modules/index.ts';
import { optimSchema } from '../../../src/optim/index.ts';
import {
  type ClientFit,
  ClientFitter,
  clientBatches,
  drawnDensities,
  erkDensities,
  exchangeCount,
  type FederatedServer,
  fedtiny,
  growAndPrune,
  keptCounts,
  largest,
  magnitudeMask,
  type PrunableWeight,
  type RoundQuestions,
  sparseFlops,
  type TopGradients,
  uniformDensities,
  weightFlops,
} from '../../../src/schedulers/federated/index.ts';
import { partOf, vectorLayout } from '../../../src/schedulers/local/index.ts';
import { createRng } from '../../../src/tensor/index.ts';

const image: TaskInfo = {
  inputs: [{ dtype: 'float32', shape: [8, 8] }],
  targets: [{ dtype: 'int32', shape: [] }],
  classes: 10,
};

describe('sparse budgets', () => {
  const weightOf = ([rows, columns, flops]: readonly [number, number, number]): PrunableWeight => ({
    shape: [rows, columns],
    size: rows * columns,
    flopsPerNumber: flops,
  });
  const weight = fc
    .tuple(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 40 }), fc.integer({ min: 0, max: 50 }))
    .map(weightOf);

  it('are kept by any densities, and used up where numbers can be shared out', () => {
    fc.assert(
      fc.property(
        fc.array(weight, { minLength: 1, maxLength: 5 }),
        fc.double({ min: 0.02, max: 1, noNaN: true }),
        fc.double({ min: 0.1, max: 1, noNaN: true }),
        fc.nat(),
        (weights, density, share, seed) => {
          const all = weights.map(({ size }) => size);
          const ones = weights.map(() => 1);
          const budget = {
            numbers: Math.max(weights.length, Math.floor(density * all.reduce((a, b) => a + b, 0))),
            flops: Math.max(sparseFlops(weights, ones), share * sparseFlops(weights, all)),
          };
          for (const relative of [
            uniformDensities(weights),
            erkDensities(weights),
            drawnDensities(weights, 4, createRng(seed)),
          ]) {
            const kept = keptCounts(weights, relative, budget);
            const numbers = kept.reduce((a, b) => a + b, 0);
            expect(numbers).toBeLessThanOrEqual(budget.numbers);
            expect(sparseFlops(weights, kept)).toBeLessThanOrEqual(budget.flops + 1e-9);
            kept.forEach((count, i) => {
              expect(count).toBeGreaterThanOrEqual(1);
              expect(count).toBeLessThanOrEqual(all[i] as number);
            });
          }
        },
      ),
      { seed: 1, numRuns: 60 },
    );
    const pair = [weightOf([100, 10, 2]), weightOf([10, 10, 2])];
    expect(keptCounts(pair, [1, 1], { numbers: 110, flops: 1e9 })).toEqual([100, 10]);
    // ERK: (110 / 1000) to (20 / 100): densities as 0.11 to 0.2.
    const [first, second] = keptCounts(pair, erkDensities(pair), { numbers: 130, flops: 1e9 }) as [number, number];
    expect(first / 1000 / (second / 100)).toBeCloseTo(0.11 / 0.2, 1);
    expect(() => keptCounts(pair, [1, 1], { numbers: 1, flops: 1e9 })).toThrow(/too small/);
  });

  it('count FLOPs by the products that weights take part in', async () => {
    const mlp = await buildModel({ name: 'mlp', args: { hidden: [12] } } as never, image);
    const dense = weightFlops(mlp.model, image);
    expect(Object.fromEntries(dense.byWeight)).toEqual({
      'hidden.0.linear.weight': 2 * 64 * 12,
      'head.linear.weight': 2 * 12 * 10,
    });
    expect(dense.total).toBeGreaterThan(2 * (64 * 12 + 12 * 10));
    const cnn = await buildModel(
      { name: 'cnn', args: { channels: [4, 6], hidden: null, norm: 'batch' } } as never,
      image,
    );
    const { byWeight } = weightFlops(cnn.model, image);
    expect(byWeight.get('blocks.0.conv.weight')).toBe(2 * 9 * 1 * 4 * 64);
    expect(byWeight.get('blocks.1.conv.weight')).toBe(2 * 9 * 4 * 6 * 16);
    expect(byWeight.get('head.linear.weight')).toBe(2 * 6 * 4 * 10);
  });
});

describe('growing and pruning', () => {
  it('is that of the slow algorithm', () => {
    const number = fc.integer({ min: -20, max: 20 });
    fc.assert(
      fc.property(
        fc.array(fc.tuple(number, fc.boolean(), number, number), { minLength: 2, maxLength: 30 }),
        fc.integer({ min: 0, max: 8 }),
        (cells, count) => {
          const mask = Float32Array.from(cells, ([, kept]) => (kept ? 1 : 0));
          const values = Float32Array.from(cells, ([value, kept]) => (kept ? value : 0));
          const gradients = [2, 3].map((at) => cells.map((cell) => cell[at] as number));
          const eligible = Uint8Array.from(mask, (kept) => 1 - kept);
          const sent = gradients.map((gradient, k) => ({ ...largest(gradient, eligible, count), weight: k + 1 }));
          // By hand: everything each client sent, in a table over all places.
          const sums = cells.map((_, i) =>
            sent.reduce((sum, { places, values: given, weight }) => {
              const at = places.indexOf(i);
              return sum + (at < 0 ? 0 : weight * (given[at] as number));
            }, 0),
          );
          const order = (of: readonly number[], places: number[]) =>
            places.sort((a, b) => Math.abs(of[b] as number) - Math.abs(of[a] as number) || a - b);
          const numbers = cells.map((_, i) => i);
          const grow = order(
            sums,
            numbers.filter((i) => mask[i] === 0 && sums[i] !== 0),
          ).slice(0, count);
          const kept = order(
            [...values],
            numbers.filter((i) => mask[i] === 1),
          );
          const exchanged = Math.min(grow.length, kept.length);
          const prune = kept.slice(kept.length - exchanged);
          const expected = numbers.map((i) =>
            prune.includes(i) ? 0 : grow.slice(0, exchanged).includes(i) ? 1 : (mask[i] as number),
          );
          const before = values.slice();
          const total = mask.reduce((a, b) => a + b, 0);
          expect(growAndPrune(values, mask, sent, count)).toBe(exchanged);
          expect([...mask]).toEqual(expected);
          expect(mask.reduce((a, b) => a + b, 0)).toBe(total);
          values.forEach((value, i) => {
            expect(value === 0 || value === before[i]).toBe(true);
            if (mask[i] === 0) expect(value).toBe(0);
          });
        },
      ),
      { seed: 2, numRuns: 200 },
    );
  });

  it('exchanges less and less', () => {
    expect([0, 25, 50, 75, 99, 100, 200].map((round) => exchangeCount(1000, round, 100, 0.15))).toEqual([
      300, 256, 150, 43, 0, 0, 0,
    ]);
    expect([...magnitudeMask(Float32Array.of(0.1, -3, 2, 0), 2)]).toEqual([0, 1, 1, 0]);
  });
});

describe('the server of FedTiny', () => {
  const layout = vectorLayout([
    { path: 'a.bias', spec: { shape: [2] } },
    { path: 'a.weight', spec: { shape: [3, 4] } },
    { path: 'b.weight', spec: { shape: [2, 2] } },
  ]);
  const shape = {
    params: layout,
    state: vectorLayout([{ path: 'a.mean', spec: { shape: [2] } }]),
    clients: 5,
    seed: 3,
  };
  const masks = (server: FederatedServer) => server.vectors?.mask as Float32Array;
  const initial = () => Float32Array.from({ length: layout.size }, (_, i) => Math.sin(i + 1));
  const fits = [30, 10].map((examples, client) => ({ client, examples: new Int32Array(examples) }) as ClientFit);
  const questions = (round: number, more: Partial<RoundQuestions>): RoundQuestions => ({
    round,
    clients: fits,
    ask: () => Promise.reject(new Error('nothing was to be asked')),
    train: () => Promise.reject(new Error('nothing was to be trained')),
    losses: () => Promise.reject(new Error('no losses were to be asked')),
    ...more,
  });

  it('takes the candidate with the lowest mean loss under averaged statistics', async () => {
    const settings = fedtiny.config.parse({ density: 0.6, candidates: 4 });
    const server = fedtiny.server(settings, shape);
    const seen: Float32Array[] = [];
    const params = initial();
    const state = Float32Array.of(9, 9);
    const traffic = await server.prepare?.(
      questions(0, {
        // The trial adds 1 to what the mask keeps.
        train: async (at, { mask }) => {
          at.params.forEach((value, i) => {
            if (mask?.[i] === 0) expect(value).toBe(0);
          });
          return Float32Array.from([...(mask as Float32Array), 0, 0]);
        },
        ask: async (task, _config, at) => {
          expect(task).toBe('batch-statistics');
          seen.push(at.params.slice());
          return [Float32Array.of(1, 2), Float32Array.of(5, -2)];
        },
        losses: async (at) => {
          expect([...at.state]).toEqual([2, 1]);
          // The third is best for the client that counts three times.
          return seen.length === 3 ? [1, 5] : [2, 4];
        },
      }),
      params,
      state,
    );
    expect(seen).toHaveLength(4);
    expect(params).toEqual(seen[2]);
    expect([...state]).toEqual([2, 1]);
    const mask = masks(server);
    expect(mask.filter((value) => value === 1).length).toBeLessThanOrEqual(0.6 * layout.size);
    params.forEach((value, i) => {
      expect(value).toBe(mask[i] === 1 ? Math.fround(Math.fround(Math.sin(i + 1)) + 1) : 0);
    });
    // Updates, statistics and a loss of two clients for each candidate.
    const sizes = seen.map((values) => values.filter((value) => value !== 0).length + 2);
    expect(traffic?.up).toBe(sizes.reduce((sum, size) => sum + 2 * (4 * size + 8 + 4), 0));
  });

  it('exchanges weights of one layer at a time, from the last on, within the budget', async () => {
    const settings = fedtiny.config.parse({ density: 0.6, layers: 'uniform', every: 1, until: 4, rate: 0.5 });
    const server: FederatedServer = fedtiny.server(settings, shape);
    const params = initial();
    const state = new Float32Array(2);
    await server.prepare?.(questions(0, {}), params, state);
    const asked: string[] = [];
    const density = server.metrics?.().density;
    expect(density).toBeLessThanOrEqual(0.6);
    for (const round of [1, 2, 3, 4]) {
      const before = masks(server).slice();
      await server.prepare?.(
        questions(round, {
          ask: async (task, config) => {
            expect(task).toBe('top-gradients');
            const { path, eligible, count } = config as { path: string; eligible: Uint8Array; count: number };
            asked.push(path);
            const gradients = Float32Array.from(eligible, (_, i) => i + 1);
            return fits.map((): TopGradients => largest(gradients, eligible, count));
          },
        }),
        params,
        state,
      );
      const mask = masks(server);
      expect(server.metrics?.().density).toBe(density);
      const place = layout.places.find(({ path }) => path === asked.at(-1));
      before.forEach((value, i) => {
        const inside = place && i >= place.offset && i < place.offset + place.size;
        if (!inside) expect(mask[i]).toBe(value);
        if (mask[i] === 0) expect(params[i]).toBe(0);
      });
    }
    // Round 4 is where it ends; in round 3 the share rounds to nothing.
    expect(asked[0]).toBe('a.weight');
    expect(asked.length).toBeLessThanOrEqual(3);
  });

  it('says what does not fit', () => {
    const none = { ...shape, params: vectorLayout([{ path: 'w', spec: { shape: [3] } }]) };
    expect(fedtiny.unsuited?.(fedtiny.config.parse({}), none)).toMatch(/has none/);
    expect(fedtiny.unsuited?.(fedtiny.config.parse({ density: 0.01 }), shape)).toMatch(/too small/);
    expect(fedtiny.unsuited?.(fedtiny.config.parse({ density: 0.5 }), shape)).toBeNull();
  });
});

describe('what clients are asked', () => {
  let data: PreparedData;
  let fitter: ClientFitter;
  const model = { name: 'cnn', args: { channels: [2, 3], hidden: null, norm: 'batch' } };
  beforeAll(async () => {
    data = await prepareData(dataSchema.parse({ name: 'mnist', limit: 200, validation: 0.1 }));
    fitter = await ClientFitter.create({
      seed: 3,
      model,
      optim: optimSchema.parse({ name: 'sgd', lr: 0.1, momentum: 0 }),
      data,
      engine: { kind: 'onnx', device: 'cpu', threads: 1 },
      objective: { name: 'masked', config: {} },
      batch: 8,
    });
  });
  afterAll(() => fitter.dispose());

  const started = async () => {
    const dataset = openDataset(data);
    const built = await buildModel(model as never, dataset.info);
    const layout = vectorLayout(modelParams(built.model));
    const stateLayout = vectorLayout(modelState(built.model));
    const params = new Float32Array(layout.size);
    const state = new Float32Array(stateLayout.size);
    const drawn = { ...initParams(modelParams(built.model), 5), ...initState(modelState(built.model), 1) };
    for (const place of layout.places) partOf(params, place).set(drawn[place.path]?.data as Float32Array);
    for (const place of stateLayout.places) partOf(state, place).set(drawn[place.path]?.data as Float32Array);
    const shared = (values: Float32Array) => {
      const buffer = new SharedArrayBuffer(values.byteLength);
      new Float32Array(buffer).set(values);
      return buffer;
    };
    return {
      dataset,
      layout,
      stateLayout,
      params,
      at: (version: number, values: Float32Array) => ({
        version,
        params: shared(values),
        state: shared(state),
        round: {},
      }),
    };
  };
  const examples = Int32Array.from({ length: 20 }, (_, i) => i * 3);
  const question = { client: 1, round: 0, examples };

  it('are the means of the statistics of its batches', async () => {
    const { at, params, layout, stateLayout, dataset } = await started();
    const start = at(1, params);
    const answer = (await fitter.answer({
      ...question,
      task: 'batch-statistics',
      config: { batches: 9 },
      start,
    })) as Float32Array;
    // The first block by hand: convolution of the two full batches of 8, each channel's mean and unbiased variance.
    const weightPlace = layout.places.find(({ path }) => path === 'blocks.0.conv.weight');
    const weight = partOf(params, weightPlace as NonNullable<typeof weightPlace>);
    const batches = clientBatches({ ...question, seed: 3, batch: 8, epochs: 1, maxSteps: null }).slice(0, 2);
    const size = 28;
    const expected = { mean: [0, 0], variance: [0, 0] };
    for (const batch of batches) {
      const pixels = dataset.split('train').batch(batch).inputs[0]?.data as Float32Array;
      for (const channel of [0, 1]) {
        const outputs: number[] = [];
        for (let n = 0; n < batch.length; n++)
          for (let y = 0; y < size; y++)
            for (let x = 0; x < size; x++) {
              let sum = 0;
              for (let dy = 0; dy < 3; dy++)
                for (let dx = 0; dx < 3; dx++) {
                  const [row, column] = [y + dy - 1, x + dx - 1];
                  if (row < 0 || column < 0 || row >= size || column >= size) continue;
                  const tap = weight[(dy * 3 + dx) * 2 + channel] as number;
                  sum += tap * (pixels[(n * size + row) * size + column] as number);
                }
              outputs.push(sum);
            }
        const mean = outputs.reduce((a, b) => a + b, 0) / outputs.length;
        const variance = outputs.reduce((a, b) => a + (b - mean) ** 2, 0) / (outputs.length - 1);
        expected.mean[channel] = (expected.mean[channel] as number) + mean / 2;
        expected.variance[channel] = (expected.variance[channel] as number) + variance / 2;
      }
    }
    for (const name of ['mean', 'variance'] as const) {
      const place = stateLayout.places.find(({ path }) => path === `blocks.0.norm.${name}`);
      const found = partOf(answer, place as NonNullable<typeof place>);
      expected[name].forEach((value, i) => {
        // (6,272 values are added up in float32.)
        expect((found[i] as number) / value).toBeCloseTo(1, 3);
      });
    }
  });

  it('are the largest gradients at pruned places: those of the first local step', async () => {
    const { at, params, layout } = await started();
    const place = layout.places.find(({ path }) => path === 'head.linear.weight') as (typeof layout.places)[number];
    const eligible = Uint8Array.from({ length: place.size }, (_, i) => (i % 3 === 0 ? 1 : 0));
    const ask = async (count: number, values: Float32Array, version: number) =>
      (await fitter.answer({
        ...question,
        task: 'top-gradients',
        config: { path: place.path, eligible, count, batches: 1 },
        start: at(version, values),
      })) as TopGradients;
    const all = await ask(place.size, params, 2);
    expect(all.places.every((i) => eligible[i] === 1)).toBe(true);
    const few = await ask(5, params, 3);
    const order = [...all.places]
      .map((i, k) => [i, Math.abs(all.values[k] as number)] as const)
      .sort(([, a], [, b]) => b - a)
      .slice(0, 5)
      .map(([i]) => i)
      .sort((a, b) => a - b);
    expect([...few.places]).toEqual(order);
    // A fit of one step with all weights moves each by its gradient times the learning rate.
    const into = new SharedArrayBuffer(4 * (fitter.sizes.params + fitter.sizes.state));
    const ones = new SharedArrayBuffer(4 * params.length);
    new Float32Array(ones).fill(1);
    const fit = { ...question, epochs: 1, maxSteps: 1, firstStep: 0, weight: 1, clipNorm: null, kept: {} };
    await fitter.fit({ start: { ...at(4, params), round: { mask: ones } }, clients: [fit], mode: 'each', into });
    const moved = partOf(new Float32Array(into), place);
    all.places.forEach((i, k) => {
      expect(all.values[k]).toBeCloseTo(-(moved[i] as number) / 0.1, 4);
    });
    expect(all.values.some((value) => Math.abs(value) > 0.01)).toBe(true);
  });
});
