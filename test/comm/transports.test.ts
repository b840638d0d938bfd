import { afterAll, beforeAll } from 'vitest';
import {
  createLocalLinks,
  createLocalTransport,
  createLoopbackTransports,
  type NatsServer,
  startNatsServer,
} from '../../src/comm/index.ts';
import { transportConformance } from './transport-conformance.ts';
import { natsWorld, tcpWorld, unixWorld } from './worlds.ts';

let server: NatsServer;
beforeAll(async () => {
  server = await startNatsServer();
});
afterAll(() => server?.stop());

transportConformance('loopback', async (world, options) => createLoopbackTransports(world, options));
transportConformance('local', async (world, options) =>
  createLocalLinks(world).map(({ ports }, rank) => createLocalTransport({ rank, ports, ...options })),
);
transportConformance('tcp', tcpWorld);
transportConformance('unix', unixWorld);
transportConformance('nats', (world, options) => natsWorld(server.url, world, options));
