import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import {
  allReduceTree,
  beginAllReduce,
  beginReduceScatter,
  CommClosed,
  CommTimeout,
  createLocalLinks,
  createLocalTransport,
  type LeafRange,
  type Transport,
  type TreeReduction,
  TreeSum,
} from '../../src/comm/index.ts';

let open: { close(): Promise<unknown> }[] = [];
afterEach(async () => {
  await Promise.all(open.map((each) => each.close()));
  open = [];
});

/** Ranks in this thread. */
function here(ranks: number, { shared = true, deadlineMs = 5000 } = {}) {
  const transports = createLocalLinks(ranks).map(({ ports, arena }, rank) =>
    createLocalTransport({ rank, ports, arena: shared ? arena : null, deadlineMs }),
  );
  open.push(...transports);
  return { transports, group: { id: 'all', ranks: transports.map(({ rank }) => rank) } };
}

/** Leaf `leaf` of a unit whose tensors are so long; magnitudes differ, so that the order of additions shows. */
function leafValue(sizes: readonly number[], leaf: number): Float32Array[] {
  return sizes.map((size, t) => Float32Array.from({ length: size }, (_, i) => Math.sin(i + 7 * t) * 10 ** (leaf % 5)));
}

function partOf(sizes: readonly number[], leaves: number, range: LeafRange) {
  const sum = new TreeSum<Float32Array[]>(leaves, (a, b) =>
    a.map((x, t) => x.map((v, i) => v + (b[t]?.[i] as number))),
  );
  for (let leaf = range.start; leaf < range.end; leaf++) sum.put(leaf, leafValue(sizes, leaf));
  return sum;
}

function reductionOf(sizes: readonly number[], leaves: number, ranges: LeafRange[], rank: number): TreeReduction {
  const nodes = partOf(sizes, leaves, ranges[rank] as LeafRange).nodes();
  return { leaves, ranges, units: [{ sizes, nodes }] };
}

const bits = (array: Float32Array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength);

const onePerRank = (ranks: number) => Array.from({ length: ranks }, (_, start) => ({ start, end: start + 1 }));

// A rank in a thread of its own, from the build: reduces so often, or ends without a word before the round `ends`.
const BUILT = new URL('../../dist/comm/index.js', import.meta.url).href;
const RANK = `const { parentPort, workerData } = require('node:worker_threads');
import('${BUILT}').then(async ({ createLocalTransport, allReduceTree }) => {
  const { rank, links, ranges, leaves, rounds, ends, deadlineMs, pieceElements } = workerData;
  const transport = createLocalTransport({ rank, ...links, deadlineMs });
  const group = { id: 'all', ranks: ranges.map((_, i) => i) };
  try {
    let sums;
    for (let round = 0; round < rounds; round++) {
      if (round === ends) return process.exit();
      const units = workerData.units.map(({ sizes, nodes }) => ({
        sizes,
        nodes: nodes.map(({ range, value }) => ({ range, value: value.map((array) => array.slice()) })),
      }));
      const before = sums;
      sums = await allReduceTree(transport, group, 'grads', { leaves, ranges, units }, { pieceElements });
      const same = ([a], [b]) => a.every((array, t) => Buffer.compare(Buffer.from(array.buffer), Buffer.from(b[t].buffer)) === 0);
      if (before && !same(before, sums)) throw new Error('round ' + round + ' came to other bits');
    }
    parentPort.postMessage({ sums: sums[0] });
  } catch ({ name, message }) {
    parentPort.postMessage({ name, message });
  }
  await transport.close();
});`;

interface Told {
  readonly sums?: Float32Array[];
  readonly name?: string;
  readonly message?: string;
}

/** What ranks in threads of their own say at the end; nothing of one that ends without a word. */
async function inThreads(
  sizes: readonly number[],
  leaves: number,
  ranges: LeafRange[],
  {
    rounds = 3,
    ends,
    pieceElements,
  }: { rounds?: number; ends?: { rank: number; round: number }; pieceElements?: number } = {},
): Promise<(Told | undefined)[]> {
  return Promise.all(
    createLocalLinks(ranges.length).map(async (links, rank) => {
      const { units } = reductionOf(sizes, leaves, ranges, rank);
      const worker = new Worker(RANK, {
        eval: true,
        workerData: {
          ...{ rank, links, ranges, leaves, units, rounds, pieceElements, deadlineMs: 10_000 },
          ends: ends?.rank === rank ? ends.round : -1,
        },
        transferList: links.ports.filter((port) => port !== null),
      });
      let told: Told | undefined;
      worker.on('message', (message: Told) => {
        told = message;
      });
      await once(worker, 'exit');
      return told;
    }),
  );
}

describe('reductions in shared memory', () => {
  it.each([
    { ranks: 2, ranges: onePerRank(2), leaves: 2 },
    { ranks: 4, ranges: onePerRank(4), leaves: 4 },
    // Three ranks that hold one, two and two partial sums.
    {
      ranks: 3,
      ranges: [
        { start: 0, end: 2 },
        { start: 2, end: 5 },
        { start: 5, end: 8 },
      ],
      leaves: 8,
    },
  ])('$ranks threads come to the bits of the serial tree, again and again', async ({ ranges, leaves }) => {
    const sizes = [150_001, 0, 65_536, 7];
    const told = await inThreads(sizes, leaves, ranges);
    const expected = partOf(sizes, leaves, { start: 0, end: leaves }).total();
    for (const each of told) {
      expect(each?.message).toBeUndefined();
      for (const [t, sum] of expected?.entries() ?? [])
        expect(bits(each?.sums?.[t] as Float32Array).equals(bits(sum))).toBe(true);
    }
  });

  it('threads that hurry, with much to wait for and little to add, come to the same bits every time', async () => {
    const sizes = [40_000];
    const told = await inThreads(sizes, 4, onePerRank(4), { rounds: 400, pieceElements: 32 });
    const expected = partOf(sizes, 4, { start: 0, end: 4 }).total();
    for (const each of told) {
      expect(each?.message).toBeUndefined();
      expect(bits(each?.sums?.[0] as Float32Array).equals(bits(expected?.[0] as Float32Array))).toBe(true);
    }
  });

  it('the others are told who has ended in the middle, be it the leader or another rank', async () => {
    for (const rank of [0, 2]) {
      const told = await inThreads([100_000], 3, onePerRank(3), { rounds: 5, ends: { rank, round: 2 } });
      for (const [i, each] of told.entries())
        if (i === rank) expect(each).toBeUndefined();
        else expect(each?.name).toBe('CommClosed');
      expect(told.some((each) => each?.message?.includes(`rank ${rank}`))).toBe(true);
    }
  });

  it('a rank that does not come is waited for until the deadline, by name, and shows in what is pending', async () => {
    const { transports, group } = here(3, { deadlineMs: 100 });
    const sizes = [20_000];
    const reducing = [0, 1].map((rank) =>
      allReduceTree(transports[rank] as Transport, group, 'grads', reductionOf(sizes, 3, onePerRank(3), rank)).catch(
        (error: unknown) => error,
      ),
    );
    while (transports.slice(0, 2).some((transport) => transport.pending()[0]?.from !== 2))
      await new Promise((resolve) => setImmediate(resolve));
    expect(transports[1]?.pending()[0]).toMatchObject({ from: 2, tag: 'grads/desk/put' });
    for (const error of await Promise.all(reducing)) {
      expect(error).toBeInstanceOf(CommTimeout);
      expect((error as CommTimeout).message).toMatch(/rank 2/);
    }
  });

  it('a rank that has done its part may leave before the others are finished', async () => {
    const { transports, group } = here(2);
    const sizes = [50_000];
    const all = await Promise.all(
      transports.map(async (transport, rank) => {
        const [sums] = await allReduceTree(transport, group, 'g', reductionOf(sizes, 2, onePerRank(2), rank));
        await transport.close();
        return sums;
      }),
    );
    expect(all[0]?.[0]).toEqual(all[1]?.[0]);
  });

  it('several may be under way, of groups that share members, and end in another order than they began', async () => {
    const { transports } = here(3);
    const sizes = [40_000];
    const groups = [
      { id: 'a', ranks: [0, 1, 2] },
      { id: 'b', ranks: [0, 2] },
      { id: 'c', ranks: [2, 1] },
    ];
    const sums = await Promise.all(
      transports.map(async (transport) => {
        const begun = groups.map((group) => {
          const me = group.ranks.indexOf(transport.rank);
          const members = group.ranks.length;
          if (me < 0) return null;
          return beginAllReduce(transport, group, group.id, reductionOf(sizes, members, onePerRank(members), me));
        });
        const ended = await Promise.all(begun.reverse().map((each) => each?.finish()));
        return ended.reverse();
      }),
    );
    for (const own of sums)
      for (const [g, sum] of own.entries()) {
        const members = groups[g]?.ranks.length as number;
        if (sum) expect(sum[0]).toEqual(partOf(sizes, members, { start: 0, end: members }).total());
      }
  });

  it('ranks that reduce tensors of other sizes are told so', async () => {
    const { transports, group } = here(2, { deadlineMs: 200 });
    const errors = await Promise.all(
      transports.map((transport, rank) =>
        allReduceTree(transport, group, 'g', reductionOf([20_000 + 200_000 * rank], 2, onePerRank(2), rank), {
          pieceElements: 4096,
        }).catch((error: unknown) => error),
      ),
    );
    expect(String(errors[1])).toMatch(/all ranks must reduce tensors of the same sizes/);
    expect(errors[0]).toSatisfy((error) => error instanceof CommTimeout || error instanceof CommClosed);
  });

  it('counts what went from rank to rank, as messages would have', async () => {
    const count = async (shared: boolean) => {
      const { transports, group } = here(3, { shared });
      const sizes = [48_000, 96];
      const ranges = [
        { start: 0, end: 2 },
        { start: 2, end: 5 },
        { start: 5, end: 8 },
      ];
      await Promise.all(
        transports.map(async (transport, rank) => {
          await allReduceTree(transport, group, 'g', reductionOf(sizes, 8, ranges, rank));
          await beginReduceScatter(transport, group, 'r', reductionOf(sizes, 8, ranges, rank), [[0, 2]]).finish();
        }),
      );
      return transports.map((transport) => transport.statistics());
    };
    const [messages, memory] = [await count(false), await count(true)];
    for (const [rank, { bytesSent, bytesReceived }] of memory.entries()) {
      expect(Math.abs(bytesSent - (messages[rank]?.bytesSent as number))).toBeLessThan(200);
      expect(Math.abs(bytesReceived - (messages[rank]?.bytesReceived as number))).toBeLessThan(200);
    }
  });
});
