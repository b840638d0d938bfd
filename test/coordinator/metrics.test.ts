import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { treeSum } from '../../src/comm/index.ts';
import { finishMetrics } from '../../src/coordinator/index.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

describe('finishMetrics', () => {
  it('gives the same bits however the leaves are spread over ranks', () => {
    fc.assert(
      fc.property(
        fc.array(fc.float({ noNaN: true, min: -10, max: 10 }), { minLength: 1, maxLength: 20 }),
        fc.integer({ min: 1, max: 5 }),
        (leaves, ranks) => {
          const reports = Array.from({ length: ranks }, (_, rank) => ({
            loss: leaves.flatMap((value, m) => (m % ranks === rank ? [[m, value] as const] : [])),
          }));
          expect(finishMetrics(reports, leaves.length).loss).toBe(Math.fround(treeSum(leaves) / leaves.length));
        },
      ),
    );
  });

  it('averages vectors element by element', () => {
    const reports = [{ load: [[0, [1, 2]]] as const }, { load: [[1, [3, 6]]] as const }];
    expect(finishMetrics(reports, 2)).toEqual({ load: [2, 4] });
  });

  it('names a leaf that is missing or there twice', () => {
    expect(() => finishMetrics([{ loss: [[0, 1]] }], 2)).toThrow(/'loss' of microbatch 1 of 2 was not reported/);
    expect(() => finishMetrics([{ loss: [[0, 1]] }, { loss: [[0, 1]] }], 1)).toThrow(/microbatch 0 was reported twice/);
  });
});
