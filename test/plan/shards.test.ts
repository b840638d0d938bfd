import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { onHosts, optimizerShares, shardOwners } from '../../src/plan/index.ts';
import { model, plan } from './helpers.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

describe('owners of sharded optimizer state', () => {
  it('share the bytes: nobody has more than an equal part and one item', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 1000 }), { maxLength: 60 }),
        fc.integer({ min: 1, max: 9 }),
        (bytes, members) => {
          const owners = shardOwners(bytes, members);
          expect(owners).toHaveLength(bytes.length);
          const load = new Array<number>(members).fill(0);
          owners.forEach((owner, i) => {
            load[owner] = (load[owner] as number) + (bytes[i] as number);
          });
          const total = bytes.reduce((a, b) => a + b, 0);
          // (Graham 1969: longest processing time first.)
          expect(Math.max(...load)).toBeLessThanOrEqual(total / members + Math.max(0, ...bytes));
          expect(shardOwners([...bytes], members)).toEqual(owners);
        },
      ),
    );
  });

  it('are balanced over equal items', () => {
    expect(shardOwners([4, 4, 4, 4], 2)).toEqual([0, 1, 0, 1]);
    expect(shardOwners([1, 2, 3], 2)).toEqual([1, 1, 0]);
    expect(shardOwners([], 3)).toEqual([]);
  });

  it('keep every byte of state once, or with zero 0 on each rank that holds the parameter', () => {
    const summary = model(4, { experts: 4 });
    for (const zero of [0, 1] as const) {
      const made = plan(summary, { data: 4, expert: 2, pipeline: 2, zero }, 4);
      const of = optimizerShares(summary, made);
      const total = made.programs.reduce((sum, { rank }) => sum + of(rank).optimizerBytes, 0);
      const dense = 4 * 128;
      const experts = 4 * 4 * 256;
      expect(total).toBe(zero === 1 ? dense + experts : 4 * dense + 2 * experts);
    }
  });
});

describe('onHosts', () => {
  it('tells each group the machines of its members', () => {
    const made = plan(model(2), { data: 4, pipeline: 2, zero: 0 }, 4);
    const hostOfRank = ['a', 'a', 'b', 'b', 'c', 'c', 'c', 'a'];
    const { groups } = onHosts(made.programs[5] as (typeof made.programs)[number], hostOfRank);
    expect(groups['data/p1']).toEqual({ id: 'data/p1', ranks: [4, 5, 6, 7], hosts: [2, 2, 2, 0] });
    expect(groups['model/g1']).toEqual({ id: 'model/g1', ranks: [1, 5], hosts: [0, 2] });
  });
});
