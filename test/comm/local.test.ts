import { afterEach, describe, expect, it } from 'vitest';
import {
  CommClosed,
  CommTimeout,
  channelOf,
  createLocalLinks,
  createLocalTransport,
  createLoopbackTransports,
  type Transport,
} from '../../src/comm/index.ts';
import { float32, int32, zeros } from '../../src/tensor/index.ts';

let open: Transport[] = [];
const world = (size: number, options?: { deadlineMs?: number; credits?: number }) => {
  const transports = createLoopbackTransports(size, options);
  open.push(...transports);
  return transports as [Transport, Transport, ...Transport[]];
};
afterEach(async () => {
  await Promise.all(open.map((transport) => transport.close()));
  open = [];
});

describe('local transport', () => {
  it('moves lists of tensors of every dtype, empty ones too', async () => {
    const [a, b] = world(2);
    const tensors = [
      float32([1.5, -2], [2]),
      int32([7], []),
      zeros('float32', [0, 3]),
      { dtype: 'bool' as const, shape: [2], data: Uint8Array.of(1, 0) },
      { dtype: 'float16' as const, shape: [1], data: Uint16Array.of(0x3c00) },
      { dtype: 'int64' as const, shape: [1], data: BigInt64Array.of(-3n) },
    ];
    await a.send(1, 'act/s1/m0', tensors);
    expect(await b.recv(0, 'act/s1/m0')).toEqual(tensors);
    await b.send(0, 'nothing', []);
    expect(await a.recv(1, 'nothing')).toEqual([]);
  });

  it('keeps order within a tag and lets tags overtake each other', async () => {
    const [a, b] = world(2);
    for (const [tag, value] of [
      ['x', 1],
      ['y', 2],
      ['x', 3],
    ] as const)
      await a.send(1, tag, [int32([value], [1])]);
    const read = async (tag: string) => (await b.recv(0, tag))[0]?.data[0];
    expect([await read('y'), await read('x'), await read('x')]).toEqual([2, 1, 3]);
  });

  it('copies unless asked to transfer, and copies views of larger buffers', async () => {
    const [a, b] = world(2);
    const kept = float32([1, 2, 3], [3]);
    await a.send(1, 't', [kept]);
    (kept.data as Float32Array)[0] = 9;
    expect((await b.recv(0, 't'))[0]?.data[0]).toBe(1);

    const given = float32([1, 2, 3], [3]);
    await a.send(1, 't', [given], { transfer: true });
    expect(given.data.length).toBe(0);
    expect([...((await b.recv(0, 't'))[0]!.data as Float32Array)]).toEqual([1, 2, 3]);

    const whole = Float32Array.of(1, 2, 3, 4);
    await a.send(1, 't', [float32(whole.subarray(1, 3), [2])], { transfer: true });
    expect(whole.length).toBe(4);
    const [part] = await b.recv(0, 't');
    expect([part!.data.buffer.byteLength, ...(part!.data as Float32Array)]).toEqual([8, 2, 3]);
  });

  it('counts what it moves', async () => {
    const [a, b] = world(2);
    await a.send(1, 't', [float32([1, 2, 3], [3]), int32([1], [])]);
    await b.recv(0, 't');
    expect(a.statistics()).toMatchObject({ messagesSent: 1, bytesSent: 16, messagesReceived: 0 });
    expect(b.statistics()).toMatchObject({ messagesReceived: 1, bytesReceived: 16, bytesSent: 0 });
  });

  it('times out with who waits for what from whom, and shows what is there instead', async () => {
    const [a, b] = world(2);
    await a.send(1, 'act/s1/m4', []);
    const waiting = b.recv(0, 'act/s1/m3', { deadlineMs: 30 });
    expect(b.pending()).toMatchObject([{ from: 0, tag: 'act/s1/m3' }]);
    const error = await waiting.catch((e: unknown) => e);
    expect(error).toBeInstanceOf(CommTimeout);
    expect((error as Error).message).toMatch(/rank 1 waited \d+ ms for message "act\/s1\/m3" from rank 0.*act\/s1\/m4/);
    expect(b.pending()).toEqual([]);
  });

  it('holds a sender back when the receiver does not take, by channel', async () => {
    const [a, b] = world(2, { credits: 3, deadlineMs: 40 });
    for (let i = 0; i < 3; i++) await a.send(1, `act/s1/m${i}`, []);
    const error = await a.send(1, 'act/s1/m3', []).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(CommTimeout);
    expect((error as Error).message).toMatch(
      /rank 0 waited .*for rank 1 to take messages before sending "act\/s1\/m3".*channel "act\/s1"/,
    );
    await a.send(1, 'grad/s1/m0', []);

    const late = a.send(1, 'act/s1/m3', []);
    for (let i = 0; i < 3; i++) await b.recv(0, `act/s1/m${i}`);
    await late;
    expect(await b.recv(0, 'act/s1/m3')).toEqual([]);
  });

  it('streams far more messages than there are credits', async () => {
    const [a, b] = world(2, { credits: 2 });
    const seen: number[] = [];
    const sending = (async () => {
      for (let i = 0; i < 100; i++) await a.send(1, 't/x', [int32([i], [])]);
    })();
    for (let i = 0; i < 100; i++) seen.push(Number((await b.recv(0, 't/x'))[0]?.data[0]));
    await sending;
    expect(seen).toEqual(Array.from({ length: 100 }, (_, i) => i));
  });

  it('tells waiters when the peer goes away, after what it had sent', async () => {
    const [a, b] = world(2);
    await a.send(1, 'last', [int32([5], [])]);
    const waiting = b.recv(0, 'never').catch((e: unknown) => e);
    await a.close();
    const error = await waiting;
    expect(error).toBeInstanceOf(CommClosed);
    expect((error as CommClosed).peer).toBe(0);
    expect((await b.recv(0, 'last'))[0]?.data[0]).toBe(5);
    await expect(b.recv(0, 'more')).rejects.toThrow(CommClosed);
    await expect(b.send(0, 'x', [])).rejects.toThrow(/rank 0 closed its link to rank 1/);
    await expect(a.recv(1, 'x')).rejects.toThrow(/rank 0's transport is closed/);
  });

  it('notices a port that is closed without a word', async () => {
    const links = createLocalLinks(2);
    const b = createLocalTransport({ rank: 1, ports: links[1]!.ports });
    open.push(b);
    const waiting = b.recv(0, 'x');
    links[0]?.ports[1]?.close();
    await expect(waiting).rejects.toThrow(CommClosed);
  });

  it('refuses ranks that it has no link to', async () => {
    const [a] = world(2);
    await expect(a.send(0, 't', [])).rejects.toThrow(/no link to rank 0/);
    await expect(a.recv(7, 't')).rejects.toThrow(/ranks are 0\.\.1/);
  });

  it('takes the part of a tag before the last slash as its channel', () => {
    expect(['act/s1/m3', 'x', 'a/b'].map(channelOf)).toEqual(['act/s1', 'x', 'a']);
  });
});
