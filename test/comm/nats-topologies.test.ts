import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createNatsTransport, type NatsServer, startNatsServer } from '../../src/comm/index.ts';
import { float32 } from '../../src/tensor/index.ts';
import { freePorts, type NatsServers, startCluster, startLeaf, startServers } from './nats-servers.ts';
import { transportConformance } from './transport-conformance.ts';

/** Each rank is connected to another server. */
const spread = (servers: () => NatsServers) => async (world: number, options: object) => {
  const job = `test-${randomUUID().slice(0, 8)}`;
  const { urls } = servers();
  return Promise.all(
    Array.from({ length: world }, (_, rank) =>
      createNatsTransport({ rank, world, job, nats: { servers: [urls[rank % urls.length]!] }, ...options }),
    ),
  );
};

let cluster: NatsServers;
let leaf: NatsServers;
let small: NatsServers;
beforeAll(async () => {
  const [port] = await freePorts(1);
  [cluster, leaf, small] = await Promise.all([
    startCluster(),
    startLeaf(),
    startServers([{ port: port!, text: 'max_payload: 65536\n' }], [`nats://127.0.0.1:${port}`]),
  ]);
});
afterAll(() => Promise.all([cluster?.stop(), leaf?.stop(), small?.stop()]));

transportConformance(
  'nats over a cluster of three',
  spread(() => cluster),
);
transportConformance(
  'nats over a leaf node',
  spread(() => leaf),
);
transportConformance(
  'nats over a server with max_payload 64 KB',
  spread(() => small),
);

describe('a cluster', () => {
  it('that loses a server loses nothing of what is under way', async () => {
    const [a, b] = await spread(() => cluster)(2, { deadlineMs: 30_000, probeMs: 100, windowBytes: 2 ** 20 });
    const size = 30_000;
    const sending = (async () => {
      for (let i = 0; i < 200; i++) await a!.send(1, 'x/m', [float32(new Float32Array(size).fill(i), [size])]);
    })();
    for (let i = 0; i < 200; i++) {
      const [got] = await b!.recv(0, 'x/m');
      expect([got?.data.length, got?.data[0], got?.data[size - 1]]).toEqual([size, i, i]);
      // Rank 0's server dies; the client goes to another one, of which the cluster has told it.
      if (i === 50) await cluster.kill(0);
    }
    await sending;
    await Promise.all([a!.close(), b!.close()]);
    await cluster.restart(0);
  });
});

describe('many generations on one server', () => {
  let server: NatsServer;
  beforeAll(async () => {
    server = await startNatsServer();
  });
  afterAll(() => server?.stop());

  it('do not hear each other', async () => {
    const job = `test-${randomUUID().slice(0, 8)}`;
    const make = (rank: number, generation: number) =>
      createNatsTransport({ rank, world: 2, job, generation, nats: { servers: server.url }, deadlineMs: 10_000 });
    const worlds = await Promise.all(
      [1, 2].map(async (generation) => Promise.all([make(0, generation), make(1, generation)])),
    );
    for (const [i, [a]] of worlds.entries()) await a.send(1, 'x', [float32([i], [])]);
    for (const [i, [, b]] of worlds.entries()) expect((await b.recv(0, 'x'))[0]?.data[0]).toBe(i);
    for (const [, b] of worlds) expect(b.statistics().dropped?.generation).toBeGreaterThan(0);
    await Promise.all(worlds.flat().map((transport) => transport.close()));
  });
});
