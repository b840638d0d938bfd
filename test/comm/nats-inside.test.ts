import { randomUUID } from 'node:crypto';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { createNatsTransport, type NatsServer, startNatsServer, type Transport } from '../../src/comm/index.ts';
import { float32 } from '../../src/tensor/index.ts';
import { transportConformance } from './transport-conformance.ts';

let server: NatsServer;
beforeAll(async () => {
  server = await startNatsServer();
});
afterAll(() => server?.stop());

/** The same connection as a client shows it that is built otherwise: its interface and nothing else. */
function interfaceOnly(connection: NatsConnection): NatsConnection {
  return new Proxy(connection, {
    get(target, name) {
      if (name === 'protocol') return undefined;
      const value = Reflect.get(target, name) as unknown;
      return typeof value === 'function' ? (value as () => unknown).bind(target) : value;
    },
  });
}

async function over(connections: readonly NatsConnection[], options: object = {}): Promise<Transport[]> {
  const job = `test-${randomUUID().slice(0, 8)}`;
  const world = connections.length;
  const transports = await Promise.all(
    connections.map((nats, rank) => createNatsTransport({ rank, world, job, nats, ...options })),
  );
  for (const [rank, transport] of transports.entries()) {
    const close = transport.close.bind(transport);
    transport.close = () => close().then(() => (connections[rank] as NatsConnection).close());
  }
  return transports;
}

const connections = (count: number) =>
  Promise.all(Array.from({ length: count }, () => connect({ servers: server.url })));

transportConformance('nats, by the interface of its client alone', async (world, options) =>
  over((await connections(world)).map(interfaceOnly), options),
);

describe('links over NATS', () => {
  it('of the installed client send large messages without its copies, and put them together in one place', async () => {
    const both = await connections(2);
    const published = vi.spyOn(both[0] as NatsConnection, 'publish');
    const large = () => published.mock.calls.filter(([, payload]) => (payload?.length ?? 0) > 4096);
    const places = new Set<ArrayBufferLike>();
    const subscribe = both[1]!.subscribe.bind(both[1]!);
    both[1]!.subscribe = (subject, options) =>
      subscribe(subject, {
        ...options,
        callback: (error, message) => {
          if (message.data.length > 2 ** 19) places.add(message.data.buffer);
          options?.callback?.(error, message);
        },
      });
    const [a, b] = (await over(both)) as [Transport, Transport];
    // (Until the peer has said that it is there, things may be sent twice.)
    await Promise.all([a.send(1, 'x', []), b.recv(0, 'x')]);
    for (let i = 0; i < 8; i++) {
      const size = 300_000 + i;
      const sending = a.send(1, 'x/m', [float32(new Float32Array(size).fill(i), [size])]);
      const [tensor] = await b.recv(0, 'x/m');
      expect((tensor!.data as Float32Array).every((value) => value === i)).toBe(true);
      await sending;
    }
    await Promise.all([a.close(), b.close()]);
    expect(large()).toEqual([]);
    expect(places.size).toBeLessThanOrEqual(2);
    expect(both[0]!.stats().outBytes).toBeGreaterThan(8 * 1_200_000);
  });
});
