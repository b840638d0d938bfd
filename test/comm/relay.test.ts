import { afterAll, beforeAll } from 'vitest';
import { type LinkKind, type NatsServer, startNatsServer } from '../../src/comm/index.ts';
import { transportConformance } from './transport-conformance.ts';
import { relayedWorld } from './worlds.ts';

let server: NatsServer;
beforeAll(async () => {
  server = await startNatsServer();
});
afterAll(() => server?.stop());

for (const kind of ['unix', 'tcp', 'host', 'nats'] as const)
  transportConformance(`relayed ${kind}`, (world, options) =>
    relayedWorld(kind, world, { ...options, ...(kind === 'nats' ? { url: server.url } : {}) }),
  );

/** Each pair of three ranks is linked in another way. */
const mixed = (a: number, b: number): LinkKind => (['host', 'tcp', 'nats'] as const)[a + b - 1] as LinkKind;
transportConformance('relayed mixed, from threads', (world, options) =>
  relayedWorld(mixed, world, { ...options, url: server.url, threads: true }),
);
