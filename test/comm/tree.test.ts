import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { maximalNodes, splitPoint, TreeAccumulator, TreeSum, treeSum } from '../../src/comm/index.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

const f32 = () => fc.float({ noNaN: true, noDefaultInfinity: true, min: -1e6, max: 1e6 });

/** The definition, written as plainly as can be. */
function serial(leaves: readonly (number | null)[], start = 0, end = leaves.length): number | null {
  if (end - start === 1) return leaves[start] ?? null;
  let power = 1;
  while (power * 2 < end - start) power *= 2;
  const left = serial(leaves, start, start + power);
  const right = serial(leaves, start + power, end);
  if (left === null || right === null) return left ?? right;
  return Math.fround(left + right);
}

describe('the canonical tree', () => {
  it('splits after the largest power of two below the count', () => {
    expect([2, 3, 4, 5, 8, 9].map((n) => splitPoint(0, n))).toEqual([1, 2, 2, 4, 4, 8]);
    expect(splitPoint(4, 7)).toBe(6);
    expect(() => splitPoint(3, 4)).toThrow(/no children/);
  });

  it('has maximal nodes that tile a range', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 70 }), fc.nat(70), fc.nat(70), (leaves, a, b) => {
        const range = { start: Math.min(a, b, leaves), end: Math.min(Math.max(a, b), leaves) };
        const nodes = maximalNodes(range, leaves);
        expect(
          nodes.flatMap((node) => Array.from({ length: node.end - node.start }, (_, i) => node.start + i)),
        ).toEqual(Array.from({ length: range.end - range.start }, (_, i) => range.start + i));
        expect(nodes.length).toBeLessThanOrEqual(2 * Math.ceil(Math.log2(leaves + 1)) + 1);
      }),
    );
    expect(maximalNodes({ start: 2, end: 5 }, 8)).toEqual([
      { start: 2, end: 4 },
      { start: 4, end: 5 },
    ]);
  });

  it('sums leaves in any order, some of them absent, to the bits of the serial sum', () => {
    const leaf = fc.option(f32(), { nil: null, freq: 5 });
    fc.assert(
      fc.property(fc.array(leaf, { minLength: 1, maxLength: 40 }), fc.integer(), (leaves, seed) => {
        const order = leaves.map((_, i) => i).sort((a, b) => Math.sin(seed + a * 7.3) - Math.sin(seed + b * 7.3));
        const sum = new TreeSum<number>(leaves.length, (a, b) => Math.fround(a + b));
        for (const i of order) sum.put(i, leaves[i] ?? null);
        expect(Object.is(sum.total(), serial(leaves))).toBe(true);
      }),
    );
  });

  it('holds the maximal nodes of the leaves it was given', () => {
    const sum = new TreeSum<number>(8, (a, b) => a + b);
    for (const leaf of [4, 3, 2]) sum.put(leaf, 2 ** leaf);
    expect(sum.nodes()).toEqual([
      { range: { start: 2, end: 4 }, value: 12 },
      { range: { start: 4, end: 5 }, value: 16 },
    ]);
    expect(() => sum.total()).toThrow(
      /not complete: held are \[2, 4\) \[4, 5\)|not complete: held are \[4, 5\) \[2, 4\)/,
    );
  });

  it('keeps few partial sums when leaves come in order', () => {
    const tree = new TreeAccumulator<number>(64);
    let most = 0;
    for (let i = 0; i < 64; i++) {
      let merge = tree.offer({ start: i, end: i + 1 }, 1);
      while (merge) merge = tree.offer(merge.parent, merge.left + merge.right);
      most = Math.max(most, tree.nodes().length);
    }
    expect(most).toBeLessThanOrEqual(6);
    expect(tree.total()).toBe(64);
  });

  it('refuses a leaf that comes twice and ranges that are no nodes', () => {
    const sum = new TreeSum<number>(4, (a, b) => a + b);
    sum.put(0, 1);
    expect(() => sum.put(0, 1)).toThrow(/twice/);
    expect(() => sum.putNode({ start: 1, end: 3 }, 1)).toThrow(/not a node/);
  });

  it('sums host scalars like tensors', () => {
    fc.assert(
      fc.property(fc.array(f32(), { minLength: 1, maxLength: 50 }), (leaves) => {
        expect(Object.is(treeSum(leaves), serial(leaves))).toBe(true);
      }),
    );
    expect(treeSum([])).toBe(0);
  });
});
