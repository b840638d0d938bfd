import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import {
  ADD,
  addIntegers,
  allReduceTree,
  beginAllGather,
  beginReduceScatter,
  createLocalLinks,
  createLocalTransport,
  createLoopbackTransports,
  type LeafRange,
  splitByHost,
  sumArrays,
  type Transport,
  TreeSum,
  type TreeUnit,
} from '../../src/comm/index.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

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

/** How ranks of one process reduce. */
type Way = 'by messages' | 'in shared memory';
const WAYS: readonly Way[] = ['by messages', 'in shared memory'];

async function worldOf(
  ranks: number,
  way: Way = 'by messages',
): Promise<{ transports: Transport[]; group: { id: string; ranks: number[] } }> {
  const transports = createLocalLinks(ranks).map(({ ports, arena }, rank) =>
    createLocalTransport({
      rank,
      ports,
      arena: way === 'by messages' ? null : arena,
      deadlineMs: 5000,
      credits: 2,
    }),
  );
  open.push(...transports);
  return { transports, group: { id: 'all', ranks: transports.map(({ rank }) => rank) } };
}

async function reduceEverywhere(
  units: readonly { sizes: number[]; leaves: Leaf[] }[],
  ranges: readonly LeafRange[],
  options: { pieceElements?: number; directElements?: number },
  { hosts, way }: { hosts?: readonly number[]; way?: Way } = {},
) {
  const leaves = units[0]?.leaves.length ?? 0;
  const { transports, group: all } = await worldOf(ranges.length, way);
  const group = hosts ? { ...all, hosts } : all;
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

function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Leaves of units, and how the members share them, as a problem says. */
function make({ ranks, leaves, sizes, absence, seed, even }: typeof problem extends fc.Arbitrary<infer P> ? P : never) {
  const random = randomFrom(seed);
  const units = sizes.map((unitSizes) => ({
    sizes: unitSizes,
    leaves: Array.from({ length: leaves }, () =>
      random() < absence
        ? null
        : unitSizes.map((size) => Float32Array.from({ length: size }, () => (random() - 0.5) * 10 ** (random() * 8))),
    ),
  }));
  const cuts = even
    ? Array.from({ length: ranks + 1 }, (_, i) => Math.floor((i * leaves) / ranks))
    : [0, ...Array.from({ length: ranks - 1 }, () => Math.floor(random() * (leaves + 1))), leaves].sort(
        (a, b) => a - b,
      );
  const ranges = Array.from({ length: ranks }, (_, i) => ({ start: cuts[i]!, end: cuts[i + 1]! }));
  return { units, ranges, random };
}

describe('allReduceTree', () => {
  it.each(WAYS)(
    'has the bits of the serial tree for 1 to 8 ranks, any shares, absent leaves, any cut, %s',
    async (way) => {
      await fc.assert(
        fc.asyncProperty(problem, async (options) => {
          const { units, ranges } = make(options);
          const expected = units.map((unit) => bits(serialSum(unit.leaves)));
          const results = await reduceEverywhere(units, ranges, options, { way });
          for (const result of results) expect(result.map(bits)).toEqual(expected);
        }),
        { numRuns: 80 },
      );
    },
  );

  it('has these bits on any hosts, and crosses between hosts once for each of them where the tree allows it', async () => {
    let split = 0;
    await fc.assert(
      fc.asyncProperty(problem, fc.array(fc.nat(2), { minLength: 8, maxLength: 8 }), async (options, drawn) => {
        const { units, ranges } = make(options);
        // (Hosts of neighbours mostly, as schedulers place them; now and then anything.)
        const hosts = ranges.map((_, i) => (options.even ? Math.floor((i * 2) / ranges.length) : (drawn[i] as number)));
        if (splitByHost({ id: 'all', ranks: ranges.map((_, i) => i), hosts }, ranges, options.leaves)) split += 1;
        const expected = units.map((unit) => bits(serialSum(unit.leaves)));
        const results = await reduceEverywhere(units, ranges, { ...options, directElements: 0 }, { hosts });
        for (const result of results) expect(result.map(bits)).toEqual(expected);
      }),
      {
        numRuns: 150,
        examples: [
          [
            {
              ranks: 3,
              leaves: 2,
              sizes: [[13], [0]],
              absence: 0,
              seed: 1,
              pieceElements: 7,
              directElements: 0,
              even: false,
            },
            [1, 0, 1, 0, 0, 0, 0, 0],
          ],
        ],
      },
    );
    expect(split).toBeGreaterThan(5);
  });

  it('sends less between hosts', async () => {
    const sizes = [4096];
    const run = async (hosts?: readonly number[]) => {
      const { transports, group } = await worldOf(4);
      const counted = transports.map((transport) => {
        let across = 0;
        return {
          transport: new Proxy(transport, {
            get: (target, key) => {
              if (key !== 'send') {
                const value = Reflect.get(target, key);
                return typeof value === 'function' ? value.bind(target) : value;
              }
              return (...[to, tag, tensors, how]: Parameters<Transport['send']>) => {
                if (to < 2 !== target.rank < 2) across += tensors.reduce((sum, { data }) => sum + data.byteLength, 0);
                return target.send(to, tag, tensors, how);
              };
            },
          }),
          across: () => across,
        };
      });
      await Promise.all(
        counted.map(({ transport }, i) =>
          allReduceTree(
            transport,
            hosts ? { ...group, hosts } : group,
            'grads',
            {
              leaves: 4,
              ranges: [0, 1, 2, 3].map((start) => ({ start, end: start + 1 })),
              units: [{ sizes, nodes: [{ range: { start: i, end: i + 1 }, value: [new Float32Array(4096).fill(i)] }] }],
            },
            { directElements: 0 },
          ),
        ),
      );
      return counted.reduce((sum, { across }) => sum + across(), 0);
    };
    const [flat, byHost] = [await run(), await run([0, 0, 1, 1])];
    expect(byHost).toBeLessThan(0.55 * flat);
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

describe('beginReduceScatter and beginAllGather', () => {
  it.each(WAYS)('give each owner the bits of the serial tree, with other work in between, %s', async (way) => {
    await fc.assert(
      fc.asyncProperty(problem, async (options) => {
        const { units, ranges, random } = make(options);
        const { leaves, sizes } = options;
        const { transports, group } = await worldOf(ranges.length, way);
        const owners = sizes.map((unit) => unit.map(() => Math.floor(random() * ranges.length)));
        const expected = units.map((unit) => bits(serialSum(unit.leaves)));
        const gathered = await Promise.all(
          transports.map(async (transport, me) => {
            const held = units.map((unit) => unitOf(unit.leaves, ranges[me] as LeafRange, unit.sizes));
            const reduction = { leaves, ranges, units: held };
            const reducing = beginReduceScatter(transport, group, 'grads', reduction, owners, options);
            await new Promise((resolve) => setImmediate(resolve));
            const sums = await reducing.finish();
            for (const [u, unit] of sums.entries())
              for (const [t, sum] of unit.entries()) {
                const here = expected[u] && owners[u]?.[t] === me && sizes[u]?.[t];
                if (here) expect(sum).not.toBeNull();
                else if (sum) expect(sum.length).toBe(0);
              }
            // What is gathered exists everywhere: absent sums stand for zeros here.
            const all = sizes.map((unit) => unit.map((size) => new Float32Array(size)));
            const own = (u: number, t: number) => sums[u]?.[t] ?? (all[u]?.[t] as Float32Array);
            const gathering = beginAllGather(transport, group, 'params', sizes, owners, own, options);
            await gathering.finish((u, t) => all[u]?.[t] as Float32Array);
            return all.map((unit, u) => unit.map((array, t) => (owners[u]?.[t] === me ? own(u, t) : array)));
          }),
        );
        const zeros = sizes.map((unit) => bits(unit.map((size) => new Float32Array(size))));
        for (const all of gathered) expect(all.map(bits)).toEqual(expected.map((unit, u) => unit ?? zeros[u]));
      }),
      { numRuns: 80 },
    );
  });

  it.each(WAYS)('a failure before anyone finishes is reported by finish, and is not unhandled, %s', async (way) => {
    const { transports, group } = await worldOf(2, way);
    const reduction = {
      leaves: 2,
      ranges: [0, 1].map((i) => ({ start: i, end: i + 1 })),
      units: [{ sizes: [4], nodes: [] }],
    };
    await transports[1]?.close();
    const reducing = beginReduceScatter(transports[0]!, group, 'grads', reduction, [[0]]);
    await expect(reducing.finish()).rejects.toThrow(/rank 1/);
  });
});

describe('sumArrays', () => {
  it('rounds each addition to float32, in the order that is asked for, for any length', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 20_000 }), fc.integer({ min: 1, max: 1e6 }), (length, seed) => {
        const random = randomFrom(seed);
        const [a, b, c] = Array.from({ length: 3 }, () =>
          Float32Array.from({ length }, () => (random() - 0.5) * 1e6),
        ) as [Float32Array, Float32Array, Float32Array];
        const expected = a.map((value, i) => Math.fround(b[i]! + Math.fround(value + c[i]!)));
        const other = new Float32Array(length);
        sumArrays([c, other], [a, b, c], [1, 0, 2, ADD, ADD]);
        expect(c).toEqual(expected);
        expect(other).toEqual(expected);
      }),
      { numRuns: 10 },
    );
  });

  it('refuses what is no sum', () => {
    const a = new Float32Array(2);
    for (const order of [[], [ADD], [0, 0], [0, ADD], [0, 1, ADD, ADD]])
      expect(() => sumArrays([a], [a, a], order)).toThrow(RangeError);
    expect(() => sumArrays([a], [a, new Float32Array(3)], [0, 1, ADD])).toThrow(/array of 3 elements/);
    expect(() => sumArrays([a], [a], [0, 1, ADD])).toThrow(/array of no elements/);
    expect(() => sumArrays([a], [a], new Array(40).fill(0))).toThrow(/at most 32/);
  });
});

describe('addIntegers', () => {
  it('adds and subtracts modulo 2^32, for any length', () => {
    for (const length of [0, 1, 63, 8192, 8193, 20_000]) {
      const random = randomFrom(length);
      const [a, b, c, d] = Array.from({ length: 4 }, () =>
        Int32Array.from({ length }, () => (random() - 0.5) * 2 ** 32),
      ) as [Int32Array, Int32Array, Int32Array, Int32Array];
      const expected = a.map((value, i) =>
        Number(BigInt.asIntN(32, BigInt(value) + BigInt(b[i]!) + BigInt(c[i]!) - BigInt(d[i]!))),
      );
      addIntegers(a, [b, c], [d]);
      expect(a).toEqual(expected);
    }
    expect(() => addIntegers(new Int32Array(2), [], [new Int32Array(3)])).toThrow(/array of 3 integers/);
  });
});

describe('splitByHost', () => {
  const ranges = (...bounds: number[]) => bounds.slice(1).map((end, i) => ({ start: bounds[i] as number, end }));
  const split = (hosts: number[], leaves: number, ...bounds: number[]) =>
    splitByHost({ id: 'g', ranks: hosts.map((_, i) => i), hosts }, ranges(...bounds), leaves);

  it('cuts where each host has a subtree', () => {
    expect(split([0, 0, 1, 1], 8, 0, 2, 4, 6, 8)).toEqual({
      hosts: [
        [0, 1],
        [2, 3],
      ],
      nodes: [
        { start: 0, end: 4 },
        { start: 4, end: 8 },
      ],
      lanes: 2,
    });
    expect(split([0, 0, 0, 1], 6, 0, 1, 2, 4, 6)?.lanes).toBe(1);
    expect(split([7, 7, 3, 3], 6, 0, 2, 4, 5, 6)?.nodes).toEqual([
      { start: 0, end: 4 },
      { start: 4, end: 6 },
    ]);
  });

  it('does not where a host has no subtree, or there is nothing to win', () => {
    expect(split([0, 0, 1, 1], 6, 0, 1, 3, 5, 6)).toBeNull();
    expect(split([0, 1, 0, 1], 4, 0, 1, 2, 3, 4)).toBeNull();
    expect(split([0, 1, 2, 3], 4, 0, 1, 2, 3, 4)).toBeNull();
    expect(split([0, 0, 0, 0], 4, 0, 1, 2, 3, 4)).toBeNull();
    expect(split([0, 0, 1, 1], 2, 0, 1, 2, 2, 2)).toBeNull();
    expect(splitByHost({ id: 'g', ranks: [0, 1] }, ranges(0, 1, 2), 2)).toBeNull();
  });
});
