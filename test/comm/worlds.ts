import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import {
  connectNats,
  createLocalTransport,
  createNatsTransport,
  type EndpointOptions,
  type LinkAddress,
  type LinkKind,
  listenTcp,
  type NatsOptions,
  openEndpoint,
  relayAll,
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

/** How a world of endpoints is linked: by one kind, or by pair. */
export type KindOf = LinkKind | ((a: number, b: number) => LinkKind);

/** Options of a world of endpoints. */
export interface EndpointWorldOptions {
  readonly deadlineMs?: number;
  readonly credits?: number;
  /** NATS server, for links of that kind. */
  readonly url?: string;
  /** The other end of every port lies in a thread of its own, as in an agent (from the build). */
  readonly threads?: boolean;
}

/**
 * Transports as compute threads have them: local ones, whose ports are relayed to links of endpoints. Each pair has a link
 * of its own kind.
 */
export async function relayedWorld(
  kind: KindOf,
  world: number,
  options: EndpointWorldOptions = {},
): Promise<readonly Transport[]> {
  const { deadlineMs = 30_000, credits, url, threads = false } = options;
  const job = `test-${randomUUID().slice(0, 8)}`;
  const kinds = Array.from({ length: world }, (_, a) =>
    Array.from({ length: world }, (_, b): LinkKind | '-' =>
      a === b ? '-' : typeof kind === 'string' ? kind : kind(Math.min(a, b), Math.max(a, b)),
    ),
  );
  const channels = kinds.map((row) => row.map((one) => (one === '-' ? null : new MessageChannel())));
  const setting = (rank: number) => ({ job, generation: 3, rank, world, secret: SECRET, deadlineMs, credits });
  const start = threads ? agentThread : agentHere;
  const agents = await Promise.all(
    channels.map((row, rank) =>
      start(
        setting(rank),
        url,
        row.map((channel) => channel?.port2 ?? null),
      ),
    ),
  );
  const addresses = agents.map(({ address }) => address);
  await Promise.all(agents.map((agent, rank) => agent.connect(addresses, kinds[rank]!)));
  return channels.map((row, rank) => {
    const ports = row.map((channel) => channel?.port1 ?? null);
    const transport = createLocalTransport({ rank, ports, ...options });
    const close = transport.close.bind(transport);
    let closing: Promise<void> | null = null;
    transport.close = () => {
      closing ??= close().then(() => agents[rank]!.ended);
      return closing;
    };
    return transport;
  });
}

interface TestAgent {
  readonly address: LinkAddress;
  connect(addresses: readonly LinkAddress[], kinds: readonly (LinkKind | '-')[]): Promise<void>;
  /** All of its relays have ended, and it is gone. */
  readonly ended: Promise<void>;
}

type Setting = Omit<EndpointOptions, 'nats'>;

async function agentHere(
  setting: Setting,
  url: string | undefined,
  ports: readonly (MessagePort | null)[],
): Promise<TestAgent> {
  const nats = url === undefined ? null : await connectNats({ servers: url });
  const endpoint = await openEndpoint({ ...setting, nats, listen: { host: '127.0.0.1' } });
  let left = ports.filter((port) => port !== null).length;
  let over: () => void = () => undefined;
  const ended = new Promise<void>((resolve) => {
    over = resolve;
  }).then(async () => {
    await endpoint.close('over');
    await nats?.close();
  });
  return {
    address: endpoint.address,
    ended,
    connect: async (addresses, kinds) => {
      await relayAll(endpoint, addresses, kinds, ports, () => {
        left -= 1;
        if (left === 0) over();
      });
    },
  };
}

const BUILT = new URL('../../dist/comm/index.js', import.meta.url).href;
const AGENT = `const { parentPort, workerData } = require('node:worker_threads');
import('${BUILT}').then(async ({ openEndpoint, relayAll, connectNats }) => {
  const { setting, url, ports } = workerData;
  const nats = url === undefined ? null : await connectNats({ servers: url });
  const endpoint = await openEndpoint({ ...setting, nats, listen: { host: '127.0.0.1' } });
  let left = ports.filter((port) => port !== null).length;
  parentPort.once('message', async ({ addresses, kinds }) => {
    const alive = setInterval(() => undefined, 1000);
    await relayAll(endpoint, addresses, kinds, ports, async () => {
      left -= 1;
      if (left > 0) return;
      await endpoint.close('over');
      await nats?.close();
      clearInterval(alive);
    });
    parentPort.postMessage('connected');
  });
  parentPort.postMessage(endpoint.address);
});`;

async function agentThread(
  setting: Setting,
  url: string | undefined,
  ports: readonly (MessagePort | null)[],
): Promise<TestAgent> {
  const worker = new Worker(AGENT, {
    eval: true,
    workerData: { setting, url, ports },
    transferList: ports.filter((port) => port !== null),
  });
  const ended = new Promise<void>((resolve, reject) => {
    worker.once('error', reject);
    worker.once('exit', () => resolve());
  });
  const [address] = (await once(worker, 'message')) as [LinkAddress];
  return {
    address,
    ended,
    connect: async (addresses, kinds) => {
      worker.postMessage({ addresses, kinds });
      await once(worker, 'message');
    },
  };
}
