import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { pathMatcher } from '../../src/optim/glob.ts';
import {
  buildOptimizer,
  clipScale,
  optimSchema,
  type ParamInfo,
  unusedGroups,
  updateFunction,
  withRule,
} from '../../src/optim/index.ts';
import { orthogonalise } from '../../src/optim/muon.ts';
import { createRng, powInteger } from '../../src/tensor/index.ts';

const plan = (config: unknown, totalSteps = 100) => buildOptimizer(optimSchema.parse(config), { totalSteps });
const rates = (schedule: unknown, totalSteps: number) => {
  const { lrAt } = plan({ name: 'sgd', lr: 2, schedule }, totalSteps);
  return Array.from({ length: totalSteps }, (_, step) => lrAt(step));
};

beforeAll(async () => {
  await tf.setBackend('cpu');
});

describe('schedules', () => {
  it('constant holds the rate after a linear warm-up', () => {
    expect(rates({ name: 'constant', warmup: 4 }, 6)).toEqual([0.5, 1, 1.5, 2, 2, 2]);
    expect(rates(undefined, 3)).toEqual([2, 2, 2]);
  });

  it('linear falls to its final fraction', () => {
    expect(rates({ name: 'linear', final: 0.5 }, 4)).toEqual([2, 1.75, 1.5, 1.25]);
    expect(rates({ name: 'linear', warmup: 2, steps: 4 }, 6)).toEqual([1, 2, 2, 1, 0, 0]);
  });

  it('cosine falls in half a wave', () => {
    const expected = Array.from({ length: 8 }, (_, s) => 2 * (0.1 + (0.9 * (1 + Math.cos((Math.PI * s) / 8))) / 2));
    for (const [s, rate] of rates({ name: 'cosine' }, 8).entries()) expect(rate).toBeCloseTo(expected[s] as number, 12);
  });

  it('step drops by a factor', () => {
    const found = rates({ name: 'step', every: 2, gamma: 0.5, warmup: 1 }, 7);
    expect(found).toEqual([2, 2, 2, 1, 1, 0.5, 0.5]);
  });

  it('never leave [0, lr], whatever the lengths', () => {
    fc.assert(
      fc.property(
        fc.constantFrom('constant', 'linear', 'cosine', 'step'),
        fc.nat(20),
        fc.integer({ min: 1, max: 20 }),
        fc.nat(60),
        (name, warmup, total, step) => {
          const rate = plan({ name: 'adam', lr: 1, schedule: { name, warmup } }, total).lrAt(step);
          return rate >= 0 && rate <= 1 + 1e-12;
        },
      ),
    );
  });
});

describe('parameter groups', () => {
  const weight: ParamInfo = { path: 'blocks.0.mlp.up.weight', shape: [2, 2], decay: true };
  const bias: ParamInfo = { path: 'blocks.0.mlp.up.bias', shape: [2], decay: false };

  it('match whole paths, * spanning dots', () => {
    const cases: [string, string, boolean][] = [
      ['*.bias', 'a.b.bias', true],
      ['*.bias', 'a.bias.x', false],
      ['blocks.?.attn.*', 'blocks.3.attn.q.weight', true],
      ['blocks.?.attn.*', 'blocks.13.attn.q.weight', false],
      ['a.b', 'aXb', false],
      ['a[1]', 'a[1]', true],
    ];
    for (const [pattern, path, expected] of cases)
      expect(pathMatcher(pattern)(path), `${pattern} ${path}`).toBe(expected);
  });

  it('give equal keys only where the traced update is the same', () => {
    const { optimizer } = plan({ name: 'adamw', groups: [{ match: ['*.bias', 'head.*'], lr: 0.1 }] });
    expect(optimizer.groupKey(weight)).toBe(optimizer.groupKey({ ...weight, path: 'blocks.1.mlp.up.weight' }));
    expect(optimizer.groupKey(weight)).not.toBe(optimizer.groupKey({ ...weight, decay: false }));
    expect(optimizer.groupKey(weight)).not.toBe(optimizer.groupKey({ ...weight, path: 'head.weight' }));
    expect(optimizer.groupKey(bias)).toBe(optimizer.groupKey({ ...bias, path: 'head.bias' }));
  });

  it('that match nothing are reported', () => {
    const config = optimSchema.parse({
      name: 'sgd',
      groups: [{ match: '*.bias' }, { match: '*.gain' }, { match: 'blocks.*.bias' }],
    });
    expect(unusedGroups(config, [weight.path, bias.path])).toEqual([
      'optim.groups[1] (match: *.gain)',
      'optim.groups[2] (match: blocks.*.bias)',
    ]);
  });

  it('can stop learning with a factor of 0', () => {
    const { optimizer } = plan({ name: 'sgd', momentum: 0, groups: [{ match: '*.bias', lr: 0 }] });
    const [next] = optimizer.update(tf.tensor([1, 2]), tf.tensor([5, 5]), [], [tf.scalar(0.1)], bias) as [tf.Tensor];
    expect([...next.dataSync()]).toEqual([1, 2]);
  });
});

describe('slots', () => {
  it('are what each optimizer keeps', () => {
    const matrix: ParamInfo = { path: 'blocks.0.up.weight', shape: [2, 3], decay: true };
    const slots = (config: unknown, info = matrix) => plan(config).optimizer.slots(info);
    expect(slots({ name: 'sgd', momentum: 0 })).toEqual([]);
    expect(slots({ name: 'sgd' })).toEqual(['momentum']);
    expect(slots({ name: 'adamw' })).toEqual(['mean', 'square']);
    expect(slots({ name: 'lion' })).toEqual(['momentum']);
    expect(slots({ name: 'muon' })).toEqual(['momentum']);
    for (const info of [
      { ...matrix, path: 'embed.tokens.weight' },
      { ...matrix, path: 'head.weight' },
      { ...matrix, shape: [3] },
      { ...matrix, decay: false },
    ])
      expect(slots({ name: 'muon' }, info)).toEqual(['mean', 'square']);
  });
});

describe('clipping', () => {
  it("scales down to the threshold, with PyTorch's epsilon, and never up", () => {
    expect(clipScale(0.5, 1)).toBe(1);
    expect(clipScale(4, 1)).toBe(1 / 4.000001);
    expect(clipScale(4, null)).toBe(1);
    expect(plan({ name: 'sgd', clip_norm: 2 }).clipNorm).toBe(2);
  });

  it('is folded into the update', () => {
    const { optimizer } = plan({ name: 'sgd' });
    const info: ParamInfo = { path: 'w', shape: [2], decay: true };
    const { fn, signature } = updateFunction(optimizer, info, { clipping: true });
    expect(signature.map(({ shape }) => shape)).toEqual([[2], [2], [2], [], []]);
    const [param, momentum] = fn(
      tf.tensor([1, 1]),
      tf.tensor([4, 8]),
      tf.zeros([2]),
      tf.scalar(1),
      tf.scalar(0.5),
    ) as tf.Tensor[];
    expect([...(param as tf.Tensor).dataSync()]).toEqual([-1, -3]);
    expect([...(momentum as tf.Tensor).dataSync()]).toEqual([2, 4]);
  });
});

describe('SGD', () => {
  it.each([{ momentum: 0 }, { momentum: 0.9 }, { momentum: 0.9, nesterov: true }])(
    '%o knows how far steps along one gradient go',
    (settings) => {
      const { optimizer } = plan({ name: 'sgd', weight_decay: 0, ...settings });
      const info: ParamInfo = { path: 'w', shape: [1], decay: true };
      let [param, ...slots]: readonly tf.Tensor[] = [tf.zeros([1]), ...optimizer.slots(info).map(() => tf.zeros([1]))];
      for (let step = 1; step <= 12; step++) {
        [param, ...slots] = optimizer.update(param as tf.Tensor, tf.ones([1]), slots, [tf.scalar(0.5)], info);
        const gone = -((param as tf.Tensor).dataSync()[0] as number) / 0.5;
        expect(optimizer.pathLength?.(step)).toBeCloseTo(gone, 4);
      }
      const ruled = withRule(plan({ name: 'sgd', ...settings }), { name: 'none' });
      expect(ruled.optimizer.pathLength?.(7)).toBe(optimizer.pathLength?.(7));
    },
  );
});

describe('Adam', () => {
  it('moves by the learning rate in its first step, however small the gradient', () => {
    for (const name of ['adam', 'adamw']) {
      const { optimizer } = plan({ name, weight_decay: 0 });
      const scalars = optimizer.scalars(0.01, 1).map((x) => tf.scalar(x));
      const info: ParamInfo = { path: 'w', shape: [3], decay: true };
      const [next] = optimizer.update(
        tf.zeros([3]),
        tf.tensor([1e-4, -1, 100]),
        [tf.zeros([3]), tf.zeros([3])],
        scalars,
        info,
      ) as [tf.Tensor];
      const [a, b, c] = next.dataSync() as unknown as [number, number, number];
      expect(a).toBeCloseTo(-0.01, 5);
      expect(b).toBeCloseTo(0.01, 8);
      expect(c).toBeCloseTo(-0.01, 8);
    }
  });

  it('powers of betas do not depend on the runtime and are accurate', () => {
    fc.assert(
      fc.property(fc.double({ min: 0.5, max: 0.9999, noNaN: true }), fc.nat(100_000), (base, n) => {
        const expected = base ** n;
        return Math.abs(powInteger(base, n) - expected) <= 1e-9 * expected + 1e-300;
      }),
    );
  });
});

describe('Muon', () => {
  it.each([
    [8, 5],
    [5, 8],
    [6, 6],
  ])('makes the singular values of a %d x %d matrix about 1', (rows, columns) => {
    const matrix = tf.tensor2d(createRng(rows).fillNormal(new Float32Array(rows * columns)), [rows, columns]);
    const x = orthogonalise(matrix, 8);
    const gram = rows > columns ? tf.matMul(x, x, true, false) : tf.matMul(x, x, false, true);
    const values = gram.arraySync() as number[][];
    for (const [i, row] of values.entries())
      for (const [j, value] of row.entries()) expect(Math.abs(value - (i === j ? 1 : 0))).toBeLessThan(0.5);
  });

  it('survives a zero gradient', () => {
    expect([...orthogonalise(tf.zeros([2, 3]), 5).dataSync()]).toEqual([0, 0, 0, 0, 0, 0]);
  });
});

describe('the config section', () => {
  it('defaults to AdamW with every key present', () => {
    expect(optimSchema.parse(undefined)).toEqual({
      name: 'adamw',
      lr: 1e-3,
      betas: [0.9, 0.999],
      eps: 1e-8,
      weight_decay: 0.01,
      clip_norm: null,
      schedule: { name: 'constant', warmup: 0 },
      groups: [],
    });
  });

  it.each([
    { name: 'adagrad' },
    { name: 'sgd', betas: [0.9, 0.999] },
    { name: 'adam', lr: -1 },
    { name: 'adam', betas: [0.9, 1] },
    { name: 'sgd', clip_norm: 0 },
    { name: 'sgd', schedule: { name: 'cosine', every: 3 } },
    { name: 'sgd', groups: [{ lr: 1 }] },
  ])('refuses %j', (config) => {
    expect(optimSchema.safeParse(config).success).toBe(false);
  });
});
