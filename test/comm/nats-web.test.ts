import { afterAll, beforeAll, expect, it } from 'vitest';
import { connectNats, createNatsTransport, NatsConnectError } from '../../src/comm/index.ts';
import { float32 } from '../../src/tensor/index.ts';
import { type NatsServers, startWeb } from './nats-servers.ts';
import { transportConformance } from './transport-conformance.ts';
import { natsWorld } from './worlds.ts';

// (In a file of its own: a process has connections over TCP or over WebSocket, not both.)
let web: NatsServers;
beforeAll(async () => {
  web = await startWeb();
});
afterAll(() => web?.stop());

transportConformance('nats over WebSocket', (world, options) => natsWorld(web.urls[0]!, world, options));

it('a connection over WebSocket survives the death of its server', async () => {
  const connections = await Promise.all([0, 1].map(() => connectNats({ servers: web.urls[0]! })));
  const job = 'web';
  const [a, b] = await Promise.all(
    connections.map((nats, rank) =>
      createNatsTransport({ rank, world: 2, job, nats, deadlineMs: 20_000, probeMs: 100 }),
    ),
  );
  const size = 30_000;
  const sending = (async () => {
    for (let i = 0; i < 60; i++) await a!.send(1, 'x/m', [float32(new Float32Array(size).fill(i), [size])]);
  })();
  for (let i = 0; i < 60; i++) {
    const [got] = await b!.recv(0, 'x/m');
    expect([got?.data.length, got?.data[0], got?.data[size - 1]]).toEqual([size, i, i]);
    if (i !== 20) continue;
    await web.kill(0);
    await web.restart(0);
  }
  await sending;
  await Promise.all([a!.close(), b!.close()]);
  await Promise.all(connections.map((nats) => nats.close()));
});

it('says what is wrong: a port that speaks something else, one where nobody listens, both kinds in a process', async () => {
  const plain = web.servers[0]!.url;
  const asWeb = connectNats({ servers: plain.replace('nats:', 'ws:'), timeoutMs: 2000 });
  await expect(asWeb).rejects.toThrow(NatsConnectError);
  await expect(connectNats({ servers: 'ws://127.0.0.1:1', timeoutMs: 2000 })).rejects.toThrow(
    /NATS at ws:\/\/127\.0\.0\.1:1: nobody listens there/,
  );
  await expect(connectNats({ servers: plain })).rejects.toThrow(/this process has a connection to NATS over WebSocket/);
  await expect(connectNats({ servers: [web.urls[0]!, plain] })).rejects.toThrow(/cannot be mixed/);
});
