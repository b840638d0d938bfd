import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  balance,
  groupsOf,
  layerPattern,
  manualStages,
  paramsOfRank,
  placementOf,
  positionOf,
} from '../../src/plan/index.ts';
import { layer, model, plan } from './helpers.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

describe('balanced stages', () => {
  /** Least possible maximum over all cuts, by trying them. */
  const bruteForce = (costs: readonly number[], stages: number): number => {
    if (stages === 1) return costs.reduce((a, b) => a + b, 0);
    let best = Number.POSITIVE_INFINITY;
    let first = 0;
    for (let cut = 1; cut <= costs.length - stages + 1; cut++) {
      first += costs[cut - 1] as number;
      best = Math.min(best, Math.max(first, bruteForce(costs.slice(cut), stages - 1)));
    }
    return best;
  };

  it('minimise the largest stage, cover all layers in order, leave none empty', () => {
    const costs = fc.array(fc.nat(100), { minLength: 1, maxLength: 9 });
    fc.assert(
      fc.property(costs, fc.nat(), (list, n) => {
        const stages = (n % list.length) + 1;
        const runs = balance(list, stages);
        expect(runs.flat()).toEqual(list.map((_, i) => i));
        expect(runs).toHaveLength(stages);
        for (const run of runs) expect(run.length).toBeGreaterThan(0);
        const sums = runs.map((run) => run.reduce((sum, i) => sum + (list[i] as number), 0));
        expect(Math.max(...sums)).toBe(bruteForce(list, stages));
      }),
      { numRuns: 200 },
    );
  });

  it('spread the rest evenly', () => {
    expect(balance([9, 1, 1, 1, 1, 1, 1], 3)).toEqual([[0], [1, 2, 3], [4, 5, 6]]);
    expect(
      balance([1, 1, 1, 1, 1], 2)
        .map((run) => run.length)
        .sort(),
    ).toEqual([2, 3]);
  });

  it('go by FLOPs, experts included', () => {
    const layers = [
      layer('a', { flops: 1 }),
      layer('b', { flops: 1 }),
      layer('c', { flops: 1, experts: 2 }),
      layer('d', { flops: 1 }),
    ];
    const made = plan({ layers }, { pipeline: 2 }, 2);
    expect(made.stages.map((stage) => stage.layers)).toEqual([
      [0, 1],
      [2, 3],
    ]);
  });
});

describe('stages by hand', () => {
  const names = ['embed', ...Array.from({ length: 12 }, (_, i) => `blocks.${i}`), 'head'];

  it('by counts and patterns', () => {
    expect(manualStages(names, [5, 9], 2)).toEqual([
      [0, 1, 2, 3, 4],
      [5, 6, 7, 8, 9, 10, 11, 12, 13],
    ]);
    expect(manualStages(names, [['embed', 'blocks.0..9'], 'blocks.10..11', 'h*'], 3).map((run) => run.length)).toEqual([
      11, 2, 1,
    ]);
    expect(layerPattern('blocks.2..3')('blocks.20')).toBe(false);
    expect(layerPattern('blocks.*')('blocksX1')).toBe(false);
  });

  it.each([
    [[14, 1], /takes 1 layers, but only 0 of the model's 14 are left/],
    [[3, 4], /leaves out the layers blocks\.6, .*head/],
    [[3], /one entry for each stage, but has 1 entries for 2 stages/],
    [['embed', 'block*'], /leaves out the layers head/],
    [['blocks.*', 'embed'], /holds the layer "blocks\.0", but "embed" comes next/],
    [['embed', 'blcks.*'], /no layer is called "blcks\.\*"; the layers are embed/],
    [
      [
        ['embed', 'blocks.0'],
        ['blocks.0..11', 'head'],
      ],
      /holds the layer "blocks\.0", but "blocks\.1" comes next/,
    ],
  ] as const)('refuses %j', (entries, message) => {
    expect(() => manualStages(names, entries as never, 2)).toThrow(message);
  });
});

describe('placement', () => {
  const summary = {
    layers: [layer('a'), layer('b', { experts: 4 }), layer('c'), layer('d', { experts: 4, calls: 2 })],
  };
  const made = plan(summary, { data: 4, pipeline: 2, expert: 2, stages: [2, 2] }, 4);
  const placement = placementOf(summary, made);

  it('puts dense parameters on all data ranks of their stage', () => {
    expect(placement.get('a.weight')).toEqual([0, 1, 2, 3]);
    expect(placement.get('c.weight')).toEqual([4, 5, 6, 7]);
  });

  it('puts expert e on member floor(e * ep / E) of each expert group', () => {
    expect(placement.get('b.moe0.experts.0.up')).toEqual([0, 2]);
    expect(placement.get('b.moe0.experts.1.up')).toEqual([0, 2]);
    expect(placement.get('b.moe0.experts.2.up')).toEqual([1, 3]);
    expect(placement.get('d.moe1.experts.3.up')).toEqual([5, 7]);
  });

  it('names groups alike on all members; a model group holds every parameter', () => {
    for (let rank = 0; rank < 8; rank++) {
      const groups = groupsOf(made.mesh, rank);
      for (const [key, group] of Object.entries(groups)) {
        expect(group.ranks).toContain(rank);
        for (const other of group.ranks) expect(groupsOf(made.mesh, other)[key as keyof typeof groups]).toEqual(group);
      }
      const held = new Set(
        groups.model.ranks.flatMap((other) => paramsOfRank(summary, made, other).map(({ path }) => path)),
      );
      expect([...held].sort()).toEqual([...placement.keys()].sort());
    }
  });

  it('every parameter is somewhere, and all its replicas are members of one all-reduce group', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 3 }),
        fc.constantFrom(1, 2, 4),
        fc.constantFrom(1, 2, 3),
        (pipeline, expert, groups) => {
          const data = expert * groups;
          const other = plan(model(4, { experts: 4 }), { data, pipeline, expert }, data);
          for (const [path, ranks] of placementOf(other.summary, other)) {
            const { data: axis, replica } = groupsOf(other.mesh, ranks[0] as number);
            expect(ranks, path).toEqual(path.includes('experts') ? replica.ranks : axis.ranks);
            expect(new Set(ranks.map((rank) => positionOf(other.mesh, rank).pipeline)).size).toBe(1);
          }
        },
      ),
      { numRuns: 20 },
    );
  });
});

describe('segments', () => {
  it('one segment where experts are not sharded', () => {
    const made = plan({ layers: [layer('a'), layer('b', { experts: 2 })] }, {}, 1);
    expect(made.stages[0]?.segments).toEqual([
      {
        stage: 0,
        index: 0,
        parts: [
          { kind: 'layer', layer: 0, phase: 0 },
          { kind: 'layer', layer: 1, phase: 0 },
          { kind: 'experts', layer: 1, call: 0 },
          { kind: 'layer', layer: 1, phase: 1 },
        ],
      },
    ]);
  });

  it('cut at every expert call where they are', () => {
    const made = plan({ layers: [layer('a', { experts: 2, calls: 2 }), layer('b')] }, { data: 2, expert: 2 }, 2);
    expect(made.stages[0]?.segments.map(({ parts }) => parts)).toEqual([
      [{ kind: 'layer', layer: 0, phase: 0 }],
      [{ kind: 'experts', layer: 0, call: 0 }],
      [{ kind: 'layer', layer: 0, phase: 1 }],
      [{ kind: 'experts', layer: 0, call: 1 }],
      [
        { kind: 'layer', layer: 0, phase: 2 },
        { kind: 'layer', layer: 1, phase: 0 },
      ],
    ]);
  });
});
