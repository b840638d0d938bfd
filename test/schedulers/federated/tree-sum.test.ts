import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { treeSum } from '../../../src/comm/index.ts';
import { RunningTreeSum } from '../../../src/schedulers/federated/index.ts';

const value = fc.float({ noNaN: true, min: -1000, max: 1000 });

describe('the running sum over a tree', () => {
  it('has the bits of the canonical tree, however the positions were put into blocks', () => {
    fc.assert(
      fc.property(
        fc.array(value, { minLength: 1, maxLength: 70 }),
        fc.constantFrom(1, 2, 4, 8, 16),
        (values, block) => {
          const leaf = (i: number) => Float32Array.of(values[i] as number);
          const whole = new RunningTreeSum(values.length);
          for (let from = 0; from < values.length; from += block) {
            const end = Math.min(values.length, from + block);
            const part = new RunningTreeSum(end - from);
            for (let i = from; i < end; i++) part.add(i - from + 1, leaf(i));
            whole.add(end, part.total());
          }
          expect(whole.total()?.[0]).toBe(treeSum(values.map(Math.fround)));
        },
      ),
      { numRuns: 200 },
    );
  });

  it('leaves out those that are absent', () => {
    const sum = new RunningTreeSum(3);
    sum.add(1, null);
    sum.add(2, Float32Array.of(2));
    expect(() => sum.total()).toThrow('only 2 of 3 positions');
    sum.add(3, null);
    expect([...(sum.total() ?? [])]).toEqual([2]);
    const nobody = new RunningTreeSum(1);
    nobody.add(1, null);
    expect(nobody.total()).toBeNull();
  });
});
