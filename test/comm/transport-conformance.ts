import { afterEach, describe, expect, it } from 'vitest';
import {
  allGather,
  allReduceTree,
  barrier,
  broadcast,
  CommClosed,
  CommTimeout,
  type LeafRange,
  maximalNodes,
  type Transport,
} from '../../src/comm/index.ts';
import { allocate, bytesOf, type DType, float32, type HostTensor, int32, zeros } from '../../src/tensor/index.ts';

/** Options that every transport of the suite understands. */
export interface WorldOptions {
  readonly deadlineMs?: number;
  readonly credits?: number;
}

/** Makes the linked transports of a world, index = rank. */
export type MakeWorld = (world: number, options: WorldOptions) => Promise<readonly Transport[]>;

const DTYPES: readonly DType[] = ['float32', 'int32', 'bool', 'uint8', 'int8', 'float16', 'bfloat16', 'int64'];

/** Bytes 0, 1, 2, … in whatever type; NaN patterns must survive, so compare bytes. */
function pattern(dtype: DType, shape: readonly number[]): HostTensor {
  const data = allocate(
    dtype,
    shape.reduce((product, dim) => product * dim, 1),
  );
  const bytes = bytesOf(data);
  for (let i = 0; i < bytes.length; i++) bytes[i] = dtype === 'bool' ? i & 1 : i * 31 + (i >> 8);
  return { dtype, shape, data };
}

function expectSame(actual: readonly HostTensor[], expected: readonly HostTensor[]): void {
  expect(actual.map(({ dtype, shape }) => [dtype, shape])).toEqual(expected.map(({ dtype, shape }) => [dtype, shape]));
  actual.forEach(({ data }, i) => {
    const wanted = expected[i]!.data;
    expect(data.constructor).toBe(wanted.constructor);
    expect(Buffer.compare(bytesOf(data), bytesOf(wanted))).toBe(0);
  });
}

/** What every transport must do, tried on the real thing. */
export function transportConformance(name: string, make: MakeWorld): void {
  describe(`${name} as a transport`, () => {
    let open: readonly Transport[] = [];
    const world = async (size: number, options: WorldOptions = {}) => {
      open = await make(size, { deadlineMs: 30_000, ...options });
      return open as readonly [Transport, Transport, ...Transport[]];
    };
    afterEach(async () => {
      await Promise.all(open.map((transport) => transport.close()));
      open = [];
    });

    it('moves tensors of every dtype, scalars, empty ones and empty lists', async () => {
      const [a, b] = await world(2);
      const tensors = DTYPES.flatMap((dtype) => [pattern(dtype, []), pattern(dtype, [3, 5]), zeros(dtype, [2, 0, 4])]);
      await a.send(1, 'act/s1/m0', tensors);
      expectSame(await b.recv(0, 'act/s1/m0'), tensors);
      await b.send(0, 'nothing', []);
      expect(await a.recv(1, 'nothing')).toEqual([]);
      await b.send(0, 'ünïcode/→', [int32([1], [])]);
      expectSame(await a.recv(1, 'ünïcode/→'), [int32([1], [])]);
    });

    it('moves large tensors both ways at once, whole and as views, and leaves them alone unless given away', async () => {
      const [a, b] = await world(2);
      const large = pattern('float32', [2 ** 21 + 3]);
      const view = float32((large.data as Float32Array).subarray(5, 5 + 70_001), [70_001]);
      const before = bytesOf(large.data).slice();
      const sends = [a, b].flatMap((t) => [
        t.send(1 - t.rank, 'x', [large, view, int32([7], [])]),
        t.send(1 - t.rank, 'x', [view]),
      ]);
      for (const t of [a, b]) {
        expectSame(await t.recv(1 - t.rank, 'x'), [large, view, int32([7], [])]);
        expectSame(await t.recv(1 - t.rank, 'x'), [view]);
      }
      await Promise.all(sends);
      expect(Buffer.compare(bytesOf(large.data), before)).toBe(0);
      const given = pattern('float32', [2 ** 18]);
      const copy = { ...given, data: given.data.slice() };
      await a.send(1, 'y', [given], { transfer: true });
      expectSame(await b.recv(0, 'y'), [copy]);
    });

    it('lets the sender reuse its memory as soon as the send has resolved', async () => {
      const [a, b] = await world(2);
      const tensor = float32(new Float32Array(300_000), [300_000]);
      const reading = (async () => {
        for (let i = 0; i < 20; i++) {
          const [got] = await b.recv(0, 'x');
          const data = got!.data as Float32Array;
          expect([data[0], data[data.length - 1], data.every((value) => value === i)]).toEqual([i, i, true]);
        }
      })();
      for (let i = 0; i < 20; i++) {
        (tensor.data as Float32Array).fill(i);
        await a.send(1, 'x', [tensor]);
      }
      await reading;
    });

    it('keeps order within a tag and lets tags overtake each other', async () => {
      const [a, b] = await world(2);
      const tags = Array.from({ length: 20 }, (_, i) => `t${i}`);
      for (let i = 0; i < 10; i++) for (const tag of tags) await a.send(1, tag, [int32([i], [])]);
      for (const tag of [...tags].reverse()) {
        const seen: number[] = [];
        for (let i = 0; i < 10; i++) seen.push(Number((await b.recv(0, tag))[0]?.data[0]));
        expect(seen).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
      }
      // Several waits for one tag are served in line.
      const waits = [0, 1, 2].map(() => b.recv(0, 'late/x'));
      for (let i = 0; i < 3; i++) await a.send(1, 'late/x', [int32([i], [])]);
      expect((await Promise.all(waits)).map(([tensor]) => tensor?.data[0])).toEqual([0, 1, 2]);
    });

    it('holds a sender back by what the receiver has not taken, channel by channel', async () => {
      const [a, b] = await world(2, { credits: 4 });
      let sent = 0;
      const message = pattern('float32', [2 ** 18]);
      const sending = (async () => {
        for (let i = 0; i < 40; i++, sent++) await a.send(1, `bulk/m${i}`, [message], { transfer: false });
      })();
      // Another channel goes on while this one is stuck; its last answer comes after everything that could have left.
      for (let i = 0; i < 30; i++) {
        await a.send(1, 'other/x', [int32([i], [])]);
        await b.recv(0, 'other/x');
        await b.send(0, 'echo/x', []);
        await a.recv(1, 'echo/x');
      }
      expect(sent).toBeLessThanOrEqual(4);
      for (let i = 0; i < 40; i++) {
        expectSame(await b.recv(0, `bulk/m${i}`), [message]);
        expect(sent).toBeLessThanOrEqual(i + 1 + 4);
      }
      await sending;
    });

    it('streams far more than there are credits, and counts it', async () => {
      const [a, b] = await world(2, { credits: 3 });
      const sending = (async () => {
        for (let i = 0; i < 500; i++) await a.send(1, 't/x', [int32([i], [])]);
      })();
      for (let i = 0; i < 500; i++) expect((await b.recv(0, 't/x'))[0]?.data[0]).toBe(i);
      await sending;
      expect(a.statistics()).toMatchObject({ messagesSent: 500, bytesSent: 2000, messagesReceived: 0 });
      expect(b.statistics()).toMatchObject({ messagesReceived: 500, bytesReceived: 2000, messagesSent: 0 });
      for (const count of Object.values(b.statistics().dropped ?? {})) expect(count).toBe(0);
    });

    it('names who waits for what from whom when a deadline passes, for messages and for credit', async () => {
      const [a, b] = await world(2, { credits: 1, deadlineMs: 1000 });
      await a.send(1, 'act/s1/m4', []);
      const waiting = b.recv(0, 'act/s1/m3', { deadlineMs: 50 });
      expect(b.pending()).toMatchObject([{ from: 0, tag: 'act/s1/m3' }]);
      const late = await waiting.catch((error: unknown) => error);
      expect(late).toBeInstanceOf(CommTimeout);
      expect((late as Error).message).toMatch(/rank 1 waited \d+ ms for message "act\/s1\/m3" from rank 0/);
      expect(b.pending()).toEqual([]);
      const stuck = await a.send(1, 'act/s1/m5', []).catch((error: unknown) => error);
      expect(stuck).toBeInstanceOf(CommTimeout);
      expect((stuck as Error).message).toMatch(/rank 0 waited \d+ ms for rank 1 to take .*"act\/s1\/m5"/);
      // A deadline is not the end of a link.
      expect(await b.recv(0, 'act/s1/m4')).toEqual([]);
    });

    it('tells waiters that the peer has gone, after what it had sent', async () => {
      const [a, b] = await world(2);
      const last = pattern('float32', [2 ** 20]);
      await a.send(1, 'last', [last], { transfer: false });
      const waiting = b.recv(0, 'never').catch((error: unknown) => error);
      await a.close();
      const error = await waiting;
      expect(error).toBeInstanceOf(CommClosed);
      expect((error as CommClosed).peer).toBe(0);
      expectSame(await b.recv(0, 'last'), [last]);
      await expect(b.recv(0, 'more')).rejects.toThrow(CommClosed);
      await expect(b.send(0, 'x', [])).rejects.toThrow(/rank 0 closed its link to rank 1/);
      await expect(a.recv(1, 'x')).rejects.toThrow(/rank 0's transport is closed/);
      await a.close();
    });

    it('closing fails what waits here', async () => {
      const [a, b] = await world(2, { credits: 1 });
      await a.send(1, 'x', []);
      const waits = [a.recv(1, 'y'), a.send(1, 'x', [])].map((wait) => wait.catch((error: unknown) => error));
      await Promise.all([a.close(), b.close()]);
      for (const error of await Promise.all(waits)) expect(error).toBeInstanceOf(CommClosed);
      expect(a.pending()).toEqual([]);
    });

    it('refuses ranks that it has no link to', async () => {
      const [a] = await world(2);
      await expect(a.send(0, 't', [])).rejects.toThrow(/no link to rank 0/);
      await expect(a.recv(7, 't')).rejects.toThrow(/ranks are 0\.\.1/);
    });

    it('carries the collectives: the tree all-reduce has the serial bits', async () => {
      const transports = await world(3, { credits: 2 });
      const group = { id: 'g', ranks: [0, 1, 2] };
      const gathered = await Promise.all(transports.map((t) => allGather(t, group, 'ag', [int32([t.rank], [])])));
      for (const lists of gathered) expect(lists.map(([tensor]) => tensor?.data[0])).toEqual([0, 1, 2]);
      const all = await Promise.all(
        transports.map((t) => broadcast(t, group, 2, 'bc', t.rank === 2 ? [pattern('int8', [100_000])] : null)),
      );
      for (const tensors of all) expectSame(tensors, [pattern('int8', [100_000])]);
      await Promise.all(transports.map((t) => barrier(t, group, 'bar')));

      const leaves = 7;
      const size = 50_001;
      const leaf = (index: number) =>
        Float32Array.from({ length: size }, (_, i) => Math.fround(Math.sin(i + index * 977) * 10 ** (index - 3)));
      const tree = (range: LeafRange): Float32Array => {
        const count = range.end - range.start;
        if (count === 1) return leaf(range.start);
        const half = range.start + 2 ** Math.ceil(Math.log2(count) - 1);
        const left = tree({ start: range.start, end: half });
        const right = tree({ start: half, end: range.end });
        return left.map((value, i) => Math.fround(value + (right[i] as number)));
      };
      const ranges = transports.map((t) => ({
        start: Math.floor((t.rank * leaves) / 3),
        end: Math.floor(((t.rank + 1) * leaves) / 3),
      }));
      const sums = await Promise.all(
        transports.map((t) =>
          allReduceTree(
            t,
            group,
            'grad',
            {
              leaves,
              ranges,
              units: [
                {
                  sizes: [size],
                  nodes: maximalNodes(ranges[t.rank]!, leaves).map((range) => ({ range, value: [tree(range)] })),
                },
              ],
            },
            { pieceElements: 4096 },
          ),
        ),
      );
      const serial = tree({ start: 0, end: leaves });
      for (const [unit] of sums) expect(Buffer.compare(bytesOf(unit![0]!), bytesOf(serial))).toBe(0);
    });
  });
}
