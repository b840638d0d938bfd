import { randomUUID } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  createNatsTransport,
  listenTcp,
  type NatsOptions,
  type TcpOptions,
  type Transport,
} from '../../src/comm/index.ts';

export const SECRET = 'sixteen bytes at least';

/** Transports of a whole world over direct links, in this thread. */
export async function tcpWorld(world: number, options: Partial<TcpOptions> = {}): Promise<readonly Transport[]> {
  const endpoints = await Promise.all(
    Array.from({ length: world }, (_, rank) => listenTcp({ rank, world, job: 'test', secret: SECRET, ...options })),
  );
  const addresses = endpoints.map(({ address }) => address);
  return Promise.all(endpoints.map((endpoint) => endpoint.connect(addresses)));
}

/** The same over unix sockets. */
export async function unixWorld(world: number, options: Partial<TcpOptions> = {}): Promise<readonly Transport[]> {
  const name = randomUUID().slice(0, 8);
  const endpoints = await Promise.all(
    Array.from({ length: world }, (_, rank) =>
      listenTcp({
        rank,
        world,
        job: 'test',
        secret: SECRET,
        listen: { path: join(tmpdir(), `plexus-${name}-${rank}.sock`) },
        ...options,
      }),
    ),
  );
  const addresses = endpoints.map(({ address }) => address);
  return Promise.all(endpoints.map((endpoint) => endpoint.connect(addresses)));
}

/** The same through a NATS server, each rank with a connection of its own; a job of its own unless told otherwise. */
export async function natsWorld(
  url: string,
  world: number,
  options: Partial<NatsOptions> = {},
): Promise<readonly Transport[]> {
  const job = `test-${randomUUID().slice(0, 8)}`;
  return Promise.all(
    Array.from({ length: world }, (_, rank) =>
      createNatsTransport({ rank, world, job, nats: { servers: url }, ...options }),
    ),
  );
}
