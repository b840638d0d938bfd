import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import {
  allReduceTree,
  createLoopbackTransports,
  type LeafRange,
  type Transport,
  TreeSum,
  type TreeUnit,
} from '../../src/comm/index.ts';

let open: Transport[] = [];
afterEach(async () => {
  await Promise.all(open.map((transport) => transport.close()));
  open = [];
});

/** Leaf values of a unit: one Float32Array per tensor, or null where the leaf is absent. */
type Leaf = Float32Array[] | null;

const add = (a: Float32Array[], b: Float32Array[]): Float32Array[] =>
  a.map((array, i) => array.map((value, k) => Math.fround(value + (b[i] as Float32Array)[k]!)));

function serialSum(leaves: readonly Leaf[]): Leaf {
  const sum = new TreeSum<Float32Array[]>(leaves.length, add);
  for (const [i, leaf] of leaves.entries()) sum.put(i, leaf);
  return sum.total();
}

function unitOf(leaves: readonly Leaf[], range: LeafRange, sizes: readonly number[]): TreeUnit {
  const sum = new TreeSum<Float32Array[]>(leaves.length, add);
  for (let i = range.start; i < range.end; i++) sum.put(i, leaves[i]?.map((array) => array.slice()) ?? null);
  return { sizes, nodes: sum.nodes() };
}

async function reduceEverywhere(
  units: readonly { sizes: number[]; leaves: Leaf[] }[],
  ranges: readonly LeafRange[],
  options: { pieceElements?: number; directElements?: number },
) {
  const leaves = units[0]?.leaves.length ?? 0;
  const transports = createLoopbackTransports(ranges.length, { deadlineMs: 5000, credits: 2 });
  open.push(...transports);
  const group = { id: 'all', ranks: transports.map(({ rank }) => rank) };
  return Promise.all(
    transports.map((transport, i) =>
      allReduceTree(
        transport,
        group,
        'grads',
        {
          leaves,
          ranges,
          units: units.map((unit) => unitOf(unit.leaves, ranges[i] as LeafRange, unit.sizes)),
        },
        options,
      ),
    ),
  );
}

const bits = (arrays: readonly Float32Array[] | null) =>
  arrays?.map((array) => [...new Uint32Array(array.slice().buffer)]) ?? null;

describe('allReduceTree', () => {
  it('has the bits of the serial tree for 1 to 8 ranks, any shares, absent leaves, any cut into messages', async () => {
    const problem = fc.record({
      ranks: fc.integer({ min: 1, max: 8 }),
      leaves: fc.integer({ min: 1, max: 17 }),
      sizes: fc.array(fc.array(fc.integer({ min: 0, max: 40 }), { minLength: 1, maxLength: 4 }), {
        minLength: 1,
        maxLength: 4,
      }),
      absence: fc.constantFrom(0, 0.3, 1),
      seed: fc.integer({ min: 1, max: 1e6 }),
      pieceElements: fc.constantFrom(7, 64, 1 << 20),
      directElements: fc.constantFrom(0, 1 << 14),
      even: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(problem, async ({ ranks, leaves, sizes, absence, seed, even, ...options }) => {
        let state = seed;
        const random = () => {
          state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
          return state / 2 ** 32;
        };
        const units = sizes.map((unitSizes) => ({
          sizes: unitSizes,
          leaves: Array.from({ length: leaves }, () =>
            random() < absence
              ? null
              : unitSizes.map((size) =>
                  Float32Array.from({ length: size }, () => (random() - 0.5) * 10 ** (random() * 8)),
                ),
          ),
        }));
        const cuts = even
          ? Array.from({ length: ranks + 1 }, (_, i) => Math.floor((i * leaves) / ranks))
          : [0, ...Array.from({ length: ranks - 1 }, () => Math.floor(random() * (leaves + 1))), leaves].sort(
              (a, b) => a - b,
            );
        const ranges = Array.from({ length: ranks }, (_, i) => ({ start: cuts[i]!, end: cuts[i + 1]! }));
        const expected = units.map((unit) => bits(serialSum(unit.leaves)));
        const results = await reduceEverywhere(units, ranges, options);
        for (const result of results) expect(result.map(bits)).toEqual(expected);
      }),
      { numRuns: 80 },
    );
  });

  it('reports partial sums that do not fit the announced range', async () => {
    const [transport] = createLoopbackTransports(1);
    open.push(transport!);
    const unit = { sizes: [1], nodes: [{ range: { start: 0, end: 1 }, value: [new Float32Array(1)] }] };
    await expect(
      allReduceTree(transport!, { id: 'g', ranks: [0] }, 't', {
        leaves: 2,
        ranges: [{ start: 0, end: 2 }],
        units: [unit],
      }),
    ).rejects.toThrow(/holds partial sums of \[0, 1\).*nodes are \[0, 2\)/);
  });
});
