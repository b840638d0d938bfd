import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  batchPlan,
  checkMesh,
  PlanError,
  parallelSchema,
  positionOf,
  rankAt,
  worldSize,
} from '../../src/plan/index.ts';
import { layer, model, plan } from './helpers.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

describe('the parallel section', () => {
  it('has a default for every key and a docstring for every key', () => {
    expect(parallelSchema.parse(undefined)).toEqual({
      data: 1,
      pipeline: 1,
      expert: 1,
      zero: 'auto',
      schedule: '1f1b',
      chunks: null,
      stages: 'auto',
    });
    const object = parallelSchema.def.innerType;
    for (const [key, field] of Object.entries(object.shape)) expect(field.description, key).toMatch(/\w{3}/);
  });

  it('accepts a table and stages by hand, and nothing else', () => {
    expect(parallelSchema.parse({ schedule: { file: 't.csv' }, stages: [2, 'head*', ['a', 'b']] }).stages).toHaveLength(
      3,
    );
    for (const wrong of [
      { schedule: 'pipedream' },
      { data: 0 },
      { data: 1.5 },
      { stages: [] },
      { stage: 'auto' },
      { chunks: 0 },
    ])
      expect(parallelSchema.safeParse(wrong).success, JSON.stringify(wrong)).toBe(false);
  });
});

describe('meshes', () => {
  it('numbers ranks with the pipeline outermost', () => {
    const mesh = { data: 3, pipeline: 2, expert: 1 };
    for (let rank = 0; rank < worldSize(mesh); rank++) expect(rankAt(mesh, positionOf(mesh, rank))).toBe(rank);
    expect(positionOf(mesh, 4)).toEqual({ data: 1, pipeline: 1 });
  });

  it.each([
    [
      { data: 4, pipeline: 1, expert: 3 },
      /parallel\.expert must divide parallel\.data.*3 does not divide 4.*parallel\.data to 6 or parallel\.expert to 1/,
    ],
    [{ data: 6, pipeline: 1, expert: 4 }, /4 does not divide 6: set parallel\.data to 8 or parallel\.expert to 2/],
    [{ data: 0, pipeline: 1, expert: 1 }, /parallel\.data must be a positive whole number, but is 0/],
    [
      { data: 1, pipeline: 5, expert: 1 },
      /parallel\.pipeline is 5 and the model has 4 layers: set parallel\.pipeline to at most 4/,
    ],
  ])('refuses %j', (mesh, message) => {
    expect(() => checkMesh(mesh, model(4))).toThrow(PlanError);
    expect(() => checkMesh(mesh, model(4))).toThrow(message);
  });

  it('refuses experts that do not divide, and too many chunks', () => {
    expect(() => checkMesh({ data: 4, pipeline: 1, expert: 4 }, model(2, { experts: 6 }))).toThrow(
      /4 does not divide the 6 experts of "blocks\.0\.moe0": set parallel\.expert to 2, or give the model 8 experts/,
    );
    expect(() => checkMesh({ data: 1, pipeline: 2, expert: 1 }, model(5), 3)).toThrow(
      /2 \* chunks 3 = 6 stages and the model has 5 layers: set parallel\.chunks to at most 2/,
    );
  });
});

describe('the batch', () => {
  it('derives and explains accumulation', () => {
    const even = batchPlan({ global: 64, micro: 8 }, { data: 2, pipeline: 2, expert: 2 });
    expect(even).toMatchObject({ microbatches: 8, accumulation: 4 });
    expect(even.explanation).toBe('64 examples a step = 8 microbatches of 8; 2 data ranks accumulate 4 each');
    const uneven = batchPlan({ global: 64, micro: 8 }, { data: 3, pipeline: 1, expert: 1 });
    expect(uneven.shares.map(({ start, end }) => end - start)).toEqual([2, 3, 3]);
    expect(uneven.explanation).toContain('2 to 3 each (uneven: 3 does not divide 8)');
  });

  it.each([
    [
      { global: 30, micro: 8 },
      { data: 1, expert: 1 },
      /8 does not divide 30: set batch\.micro to 6 or batch\.global to 32/,
    ],
    [
      { global: 16, micro: 8 },
      { data: 4, expert: 1 },
      /gives 2 microbatches for parallel\.data 4: set batch\.global to 32, batch\.micro to 4 or parallel\.data to 2/,
    ],
    [
      { global: 24, micro: 8 },
      { data: 2, expert: 2 },
      /parallel\.data 2 must divide the 3 microbatches.*set batch\.global to 32/,
    ],
    [{ global: 0, micro: 8 }, { data: 1, expert: 1 }, /batch\.global must be a positive whole number, but is 0/],
  ])('refuses %j on %j', (batch, mesh, message) => {
    expect(() => batchPlan(batch, { ...mesh, pipeline: 1 })).toThrow(message);
  });

  it('shares are contiguous, cover every microbatch once and differ by at most one', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 0, max: 60 }), (data, more) => {
        const { shares } = batchPlan({ global: data + more, micro: 1 }, { data, pipeline: 1, expert: 1 });
        let next = 0;
        for (const { start, end } of shares) {
          expect(start).toBe(next);
          next = end;
        }
        expect(next).toBe(data + more);
        const sizes = shares.map(({ start, end }) => end - start);
        expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
      }),
    );
  });
});

describe('settings without effect', () => {
  const warnings = (...args: Parameters<typeof plan>) => plan(...args).warnings;

  it('are warned about', () => {
    expect(warnings(model(4), {}, 2)).toEqual([]);
    expect(warnings(model(4), { schedule: 'zero-bubble' }, 2)).toEqual([
      expect.stringMatching(/schedule zero-bubble has no effect.*pipeline 1/),
    ]);
    expect(warnings(model(4), { chunks: 2 }, 2)).toEqual([
      expect.stringMatching(/chunks 2 has no effect: parallel.pipeline is 1/),
    ]);
    expect(warnings(model(4), { pipeline: 2, chunks: 2 }, 2)).toEqual([
      expect.stringMatching(/chunks 2 has no effect.*1f1b/),
    ]);
    expect(warnings(model(4), { data: 2, expert: 2 }, 2)).toEqual([
      expect.stringMatching(/expert 2 has no effect: the model has no experts/),
    ]);
    expect(warnings(model(4), { pipeline: 2, schedule: 'interleaved-1f1b', chunks: 1 }, 2)).toEqual([
      expect.stringContaining('the same as 1f1b'),
    ]);
    expect(
      warnings({ layers: [layer('a'), layer('b', { experts: 2 })] }, { data: 2, expert: 2, pipeline: 2 }, 2),
    ).toEqual([]);
  });
});
