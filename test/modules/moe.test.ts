import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import type { Module } from '../../src/modules/index.ts';
import { init, nn, param, withoutGradient } from '../../src/modules/index.ts';
import { float32 } from '../../src/tensor/index.ts';
import { type LayerRun, runModule, type Values, wave } from './eager.ts';
import { blend, DIM, inlined } from './inlined-experts.ts';

/** 1 where fewer than k values of the row are greater. */
function topMask(x: tf.Tensor, k: number): tf.Tensor {
  return withoutGradient(() => {
    const greater = tf.cast(tf.greater(tf.expandDims(x, 1), tf.expandDims(x, 2)), 'float32');
    return tf.cast(tf.less(tf.sum(greater, 2), k), 'float32');
  });
}

/** The same mixture computed densely: all experts on all tokens, gates zero where not chosen. */
function dense(experts: number, o: nn.RouterOptions): Module {
  return {
    kind: 'dense',
    children: { router: nn.linear(DIM, experts, { bias: false }) },
    params: { experts: param([experts, DIM, DIM], init.normal(0.5)) },
    forward(params, [x], ctx) {
      const logits = ctx.run('router', x as tf.Tensor);
      const scores = o.scores === 'sigmoid' ? tf.sigmoid(logits) : tf.softmax(logits);
      const mask = topMask(logits, o.topK);
      let gates: tf.Tensor = tf.mul(scores, mask);
      if (o.normalise ?? o.topK > 1) gates = tf.div(gates, tf.sum(gates, 1, true));
      gates = tf.mul(gates, o.routeScale ?? 1);
      const shares = tf.div(tf.sum(mask, 0), ((x as tf.Tensor).shape[0] as number) * o.topK);
      const p = o.scores === 'sigmoid' ? tf.div(scores, tf.sum(scores, 1, true)) : scores;
      if (o.balanceLoss)
        ctx.addLoss('balanceLoss', tf.mul(tf.sum(tf.mul(shares, tf.mean(p, 0))), experts * o.balanceLoss));
      if (o.zLoss) ctx.addLoss('zLoss', tf.mul(tf.mean(tf.square(tf.log(tf.sum(tf.exp(logits), 1)))), o.zLoss));
      return blend(x as tf.Tensor, params.experts as tf.Tensor, gates);
    },
  };
}

const someExperts = (count: number) => Array.from({ length: count }, () => nn.mlp(DIM, 8));
const mixture = (experts: number, options: Partial<nn.MoeOptions> & { topK: number }) =>
  inlined(nn.moe({ dim: DIM, experts: someExperts(experts), ...options }), experts);
const weights = (experts: number) => ({
  'm.experts': wave([experts, DIM, DIM], 2),
  'm.router.weight': wave([DIM, experts], 5),
});

function same(a: Values | null | undefined, b: Values | null | undefined, what: string): void {
  expect(a?.shape, what).toEqual(b?.shape);
  const worst = Math.max(...(a?.data ?? []).map((v, i) => Math.abs(v - (b?.data[i] as number))));
  expect(worst, what).toBeLessThan(2e-6 * Math.max(1, ...(b?.data ?? []).map(Math.abs)));
}

beforeAll(() => tf.setBackend('cpu'));

describe('mixture of experts', () => {
  const cases: (Partial<nn.MoeOptions> & { topK: number })[] = [
    { topK: 1, balanceLoss: 0.1 },
    { topK: 2, zLoss: 0.1, balanceLoss: 0.2 },
    { topK: 3, scores: 'sigmoid', routeScale: 2.5, balanceLoss: 0.3 },
    { topK: 2, normalise: false },
  ];
  for (const options of cases)
    it(`equals the densely computed mixture, gradients included: ${JSON.stringify(options)}`, async () => {
      const x = wave([9, DIM], 1);
      const given = { params: weights(4), gradients: true, cotangents: [wave([9, DIM], 9)] };
      const sparse = await runModule(mixture(4, options), [x], given);
      const reference = await runModule(dense(4, options), [x], given);
      same(sparse.activations[0], reference.activations[0], 'output');
      expect(sparse.objective).toBeCloseTo(reference.objective, 5);
      expect(sparse.fn.params.map((p) => p.path)).toEqual(reference.fn.params.map((p) => p.path));
      for (const [i, g] of sparse.gradients.entries()) same(g, reference.gradients[i], `gradient ${i}`);
    });

  it('with one expert is that expert', async () => {
    const x = wave([5, DIM], 1);
    const run = await runModule(mixture(1, { topK: 1 }), [x], { params: weights(1) });
    const w = tf.tensor(wave([1, DIM, DIM], 2).data as Float32Array, [1, DIM, DIM]);
    const expected = blend(tf.tensor(x.data as Float32Array, [5, DIM]), w, tf.ones([5, 1]));
    same(run.activations[0], { shape: [5, DIM], data: expected.dataSync() as Float32Array }, 'output');
  });

  it('adds a shared expert for every token', async () => {
    const x = wave([2, 3, DIM], 1);
    const plain = await runModule(mixture(3, { topK: 2 }), [x], { params: weights(3) });
    const shared = nn.linear(DIM, DIM, { bias: false });
    const given = {
      ...weights(3),
      'm.shared.weight': float32(
        Array.from({ length: 36 }, (_, i) => (i % 7 === 0 ? 1 : 0)),
        [6, 6],
      ),
    };
    const run = await runModule(mixture(3, { topK: 2, shared }), [x], { params: given });
    const expected = plain.activations[0]?.data.map((v, i) => v + (x.data[i] as number)) as Float32Array;
    same(run.activations[0], { shape: [2, 3, DIM], data: expected }, 'output plus identity');
  });

  it('breaks ties by the number of the expert', async () => {
    const probe: Module = {
      kind: 'probe',
      forward: (_p, [logits]) => tf.sum(nn.route(logits as tf.Tensor, null, { topK: 2 }).chosen, 1),
    };
    const run = await runModule(probe, [float32(new Float32Array(12), [3, 4])]);
    expect([...(run.activations[0]?.data ?? [])]).toEqual([1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0]);
  });

  it('reports load and balance, and contributes the demand that moves the router bias', async () => {
    // Router weights that send every token with positive first feature to expert 0, others to expert 1.
    const router = float32([9, -9, 0, ...new Array(15).fill(0)], [DIM, 3]);
    const x = float32(
      Array.from({ length: 4 * DIM }, (_, i) => (i % DIM === 0 ? (i < 3 * DIM ? 1 : -1) : 0)),
      [4, DIM],
    );
    const module = mixture(3, { topK: 1, biasRate: 0.5 });
    const params = { ...weights(3), 'm.router.weight': router };
    const run = await runModule(module, [x], { params });
    expect([...(run.metrics['m.load']?.data ?? [])]).toEqual([0.75, 0.25, 0]);
    expect(run.metrics['m.balance']?.data[0]).toBeCloseTo(4 / 3 / 3, 6);
    expect([...(run.contributions['m.routerBias']?.data ?? [])]).toEqual([3, 1, 0]);
    const update = module.state?.routerBias?.update as (s: tf.Tensor, c: tf.Tensor, m: number) => tf.Tensor;
    expect([...update(tf.tensor1d([0, 0, 1]), tf.tensor1d([3, 1, 0]), 1).dataSync()]).toEqual([-0.5, 0.5, 1.5]);
    // A large bias moves the choice, and the gate stays the unbiased score of the chosen expert.
    const biased = await runModule(module, [x], { params, state: { 'm.routerBias': float32([0, 0, 100], [3]) } });
    expect([...(biased.metrics['m.load']?.data ?? [])]).toEqual([0, 0, 1]);
    const scale = Math.max(...(biased.activations[0]?.data ?? []).map(Math.abs));
    expect(scale).toBeLessThan(1e-3);
  });

  it('does not add losses or contributions outside of training', async () => {
    const run = await runModule(mixture(3, { topK: 1, biasRate: 1, balanceLoss: 1, zLoss: 1 }), [wave([4, DIM])], {
      training: false,
    });
    expect(run.objective).toBe(0);
    expect(run.contributions).toEqual({});
    expect(Object.keys(run.metrics).sort()).toEqual(['m.balance', 'm.load']);
  });

  it('refuses options that cannot work', () => {
    const make = (o: Partial<nn.MoeOptions>) => () => nn.moe({ dim: DIM, experts: someExperts(2), topK: 1, ...o });
    expect(make({ topK: 3 })).toThrow(/topK is 3.*number of experts, 2/);
    expect(make({ normalise: true })).toThrow(/router gets no gradient/);
    expect(make({ capacityFactor: 0 })).toThrow(/capacityFactor is 0/);
  });
});

describe('capacity', () => {
  /** Six tokens; expert 0 is wanted by tokens 0, 1, 2, 4, expert 1 by 3 and 5. Scores rise with the token. */
  const wanted = [0, 0, 0, 1, 0, 1];
  const chosen = () => tf.reshape(tf.oneHot(tf.tensor1d(wanted, 'int32'), 2, 1, 0, 'float32'), [6, 1, 2]);

  it('keeps the earliest tokens under "position" and the best under "probs"', () => {
    const scores = tf.tensor1d([0.5, 0.6, 0.7, 0.8, 0.9, 1]);
    const kept = (policy: nn.DropPolicy) => [...nn.keepWithinCapacity(chosen(), scores, 2, policy).dataSync()];
    expect(kept('position')).toEqual([1, 1, 0, 1, 0, 1]);
    expect(kept('probs')).toEqual([0, 0, 1, 1, 1, 1]);
  });

  it('of equal scores keeps the earliest', () => {
    expect([...nn.keepWithinCapacity(chosen(), tf.ones([6]), 3, 'probs').dataSync()]).toEqual([1, 1, 1, 1, 0, 1]);
  });

  it('puts dropped assignments behind all rows', () => {
    const plan = nn.planDispatch(chosen(), tf.tensor1d([1, 1, 0, 1, 0, 1]));
    expect([...plan.counts.dataSync()]).toEqual([2, 2]);
    expect([...plan.token.dataSync()]).toEqual([0, 1, 3, 5, 2, 4]);
    expect([...plan.destination.dataSync()]).toEqual([0, 1, 4, 2, 5, 3]);
  });

  it('gives dropped tokens nothing, reports their share, and equals dropless when there is room', async () => {
    const x = wave([8, DIM], 3);
    const given = { params: weights(4), gradients: true };
    const free = await runModule(mixture(4, { topK: 2 }), [x], given);
    const roomy = await runModule(mixture(4, { topK: 2, capacityFactor: 4 }), [x], given);
    expect(roomy.metrics['m.dropped']?.data[0]).toBe(0);
    expect(roomy.activations[0]?.data).toEqual(free.activations[0]?.data);
    expect(roomy.gradients.map((g) => g?.data)).toEqual(free.gradients.map((g) => g?.data));
    const router = float32([9, ...new Array(23).fill(0)], [DIM, 4]);
    const ones = float32(new Float32Array(8 * DIM).fill(1), [8, DIM]);
    const tight = await runModule(mixture(4, { topK: 1, capacityFactor: 1 }), [ones], {
      params: { ...weights(4), 'm.router.weight': router },
    });
    expect(tight.metrics['m.dropped']?.data[0]).toBe(0.75);
    const zero = Array.from({ length: 8 }, (_, t) =>
      tight.activations[0]?.data.slice(t * DIM, (t + 1) * DIM).every((v) => v === 0),
    );
    expect(zero).toEqual([false, false, true, true, true, true, true, true]);
  });
});

describe('dispatch plan', () => {
  it('is a stable sort by expert, whatever is chosen and dropped', () => {
    const instance = fc
      .record({
        tokens: fc.integer({ min: 1, max: 9 }),
        topK: fc.integer({ min: 1, max: 3 }),
        experts: fc.integer({ min: 3, max: 6 }),
      })
      .chain((size) =>
        fc.record({
          size: fc.constant(size),
          choices: fc.array(
            fc.shuffledSubarray([0, 1, 2, 3, 4, 5].slice(0, size.experts), {
              minLength: size.topK,
              maxLength: size.topK,
            }),
            {
              minLength: size.tokens,
              maxLength: size.tokens,
            },
          ),
          kept: fc.option(
            fc.array(fc.boolean(), { minLength: size.tokens * size.topK, maxLength: size.tokens * size.topK }),
            { nil: null },
          ),
        }),
      );
    fc.assert(
      fc.property(instance, ({ size, choices, kept }) => {
        tf.tidy(() => {
          const flat = choices.flat();
          const chosen = tf.reshape(tf.oneHot(tf.tensor1d(flat, 'int32'), size.experts, 1, 0, 'float32'), [
            size.tokens,
            size.topK,
            size.experts,
          ]);
          const plan = nn.planDispatch(chosen, kept ? tf.tensor1d(kept.map(Number)) : null);
          const rowOf = [...plan.destination.dataSync()];
          const order = flat
            .map((expert, a) => ({ a, expert: kept && !kept[a] ? size.experts : expert }))
            .sort((p, q) => p.expert - q.expert || p.a - q.a);
          expect([...plan.source.dataSync()]).toEqual(order.map(({ a }) => a));
          expect([...plan.token.dataSync()]).toEqual(order.map(({ a }) => Math.floor(a / size.topK)));
          expect(order.map(({ a }) => rowOf[a])).toEqual(order.map((_, row) => row));
          const counts = Array.from({ length: size.experts }, (_, e) => order.filter((o) => o.expert === e).length);
          expect([...plan.counts.dataSync()]).toEqual(counts);
        });
      }),
      { numRuns: 60, seed: 7 },
    );
  });
});

describe('expert choice', () => {
  it('equals the densely computed mixture, gradients included', async () => {
    const experts = 3;
    const capacity = 4;
    const reference: Module = {
      kind: 'dense',
      children: { router: nn.linear(DIM, experts, { bias: false }) },
      params: { experts: param([experts, DIM, DIM], init.normal(0.5)) },
      forward(params, [x], ctx) {
        const scores = tf.softmax(ctx.run('router', x as tf.Tensor));
        const mask = tf.transpose(topMask(tf.transpose(scores), capacity));
        return blend(x as tf.Tensor, params.experts as tf.Tensor, tf.mul(scores, mask));
      },
    };
    const module = inlined(nn.expertChoice({ dim: DIM, experts: someExperts(experts), capacityFactor: 2 }), experts);
    const given = { params: weights(experts), gradients: true, cotangents: [wave([6, DIM], 9)] };
    const run: LayerRun = await runModule(module, [wave([6, DIM], 1)], given);
    const expected = await runModule(reference, [wave([6, DIM], 1)], given);
    same(run.activations[0], expected.activations[0], 'output');
    for (const [i, g] of run.gradients.entries()) same(g, expected.gradients[i], `gradient ${i}`);
  });
});
