import { afterEach, describe, expect, it } from 'vitest';
import {
  allGather,
  allToAll,
  barrier,
  broadcast,
  createLoopbackTransports,
  type Transport,
} from '../../src/comm/index.ts';
import { int32 } from '../../src/tensor/index.ts';

let open: Transport[] = [];
afterEach(async () => {
  await Promise.all(open.map((transport) => transport.close()));
  open = [];
});

function members(size: number, ranks = Array.from({ length: size }, (_, i) => i)) {
  const transports = createLoopbackTransports(size, { deadlineMs: 5000, credits: 1 });
  open.push(...transports);
  return { group: { id: 'g', ranks }, transports: ranks.map((rank) => transports[rank] as Transport) };
}

const number = (tensors: readonly { data: ArrayLike<number | bigint> }[] | undefined) => Number(tensors?.[0]?.data[0]);

describe('collectives', () => {
  it.each([1, 2, 3, 5, 8])('all-gather over %d ranks', async (size) => {
    const { group, transports } = members(size);
    const results = await Promise.all(
      transports.map((t) => allGather(t, group, 'ag', [int32(new Int32Array(t.rank).fill(t.rank), [t.rank])])),
    );
    for (const result of results) {
      expect(result.map(([tensor]) => tensor?.shape[0])).toEqual(group.ranks);
      expect(result.every(([tensor], i) => (tensor!.data as Int32Array).every((value) => value === i))).toBe(true);
    }
  });

  it('all-to-all over a group in an order of its own', async () => {
    const { group, transports } = members(4, [2, 0, 3]);
    const results = await Promise.all(
      transports.map((t) =>
        allToAll(
          t,
          group,
          'a2a',
          group.ranks.map((to) => [int32([t.rank * 10 + to], [])]),
          { transfer: true },
        ),
      ),
    );
    expect(results.map((result) => result.map(number))).toEqual([
      [22, 2, 32],
      [20, 0, 30],
      [23, 3, 33],
    ]);
    await expect(allToAll(transports[0]!, group, 'a2a', [])).rejects.toThrow(/one list of tensors for each, got 0/);
  });

  it.each([1, 2, 3, 4, 7, 8])('broadcast over %d ranks from every root', async (size) => {
    const { group, transports } = members(size);
    for (const root of group.ranks) {
      const results = await Promise.all(
        transports.map((t) => broadcast(t, group, root, 'b', t.rank === root ? [int32([root + 100], [])] : null)),
      );
      expect(results.map(number)).toEqual(group.ranks.map(() => root + 100));
    }
  });

  it.each([2, 3, 8])('a barrier over %d ranks opens only when the last has come', async (size) => {
    const { group, transports } = members(size);
    const opened: number[] = [];
    const early = transports.slice(1).map((t) => barrier(t, group, 'bar').then(() => opened.push(t.rank)));
    await new Promise((resolve) => setImmediate(resolve));
    expect(opened).toEqual([]);
    await Promise.all([...early, barrier(transports[0]!, group, 'bar')]);
    expect(opened).toHaveLength(size - 1);
  });

  it('refuse ranks that are no members', async () => {
    const { transports } = members(2);
    await expect(barrier(transports[0]!, { id: 'other', ranks: [1] }, 'x')).rejects.toThrow(
      /rank 0 is not a member of group "other"/,
    );
  });
});
