// The transports of Plexus, both ends.
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { MessageChannel, type MessagePort, parentPort, Worker } from 'node:worker_threads';
import {
  createLocalLinks,
  createLocalTransport,
  createNatsTransport,
  type LinkAddress,
  LinkedTransport,
  type LinkInbox,
  type LinkKind,
  listenTcp,
  openEndpoint,
  relayAll,
  scratch,
  type TcpAddress,
  type Transport,
} from '../../../src/comm/index.ts';
import { float32, type HostTensor } from '../../../src/tensor/index.ts';
import { andThenEnd, CHUNK, far, type Near, SELF, socketPath, WINDOW } from './near.ts';

const SECRET = 'only for a benchmark on one box';

/**
 * Tensors lie in scratch memory, as those of a gradient exchange do; `own`: in memory of their own, which is transferred
 * there and back, as outputs of executables are.
 */
function nearOf(transport: Transport, own = false): Near {
  const tensor = (bytes: number) => float32(scratch.take(bytes / 4), [bytes / 4]);
  let kept = new Float32Array(0);
  return {
    echo: async (bytes) => {
      if (own) {
        if (kept.byteLength !== bytes) kept = new Float32Array(bytes / 4);
        await transport.send(1, 'echo/x', [float32(kept, [bytes / 4])], { transfer: true });
        kept = (await transport.recv(1, 'echo/x'))[0]?.data as typeof kept;
      } else {
        await transport.send(1, 'echo/x', [tensor(bytes)], { transfer: true });
        release(await transport.recv(1, 'echo/x'));
      }
    },
    sink: async (bytes, count) => {
      await transport.send(1, 'count/x', [float32([count], [1])]);
      for (let i = 0; i < count; i++) await transport.send(1, 'sink/x', [tensor(bytes)], { transfer: true });
      await transport.recv(1, 'count/x');
    },
    close: async () => {
      await transport.send(1, 'end/x', []);
      await transport.close();
    },
  };
}

function release(tensors: readonly HostTensor[]): void {
  for (const { data } of tensors) scratch.give(data as Float32Array);
}

async function farOf(transport: Transport): Promise<void> {
  const forever = { deadlineMs: 600_000 };
  const echo = async () => {
    for (;;) {
      const tensors = await transport.recv(0, 'echo/x', forever);
      // Memory that came from another thread is handed on as it is.
      for (const { data } of tensors) scratch.adopt(data);
      await transport.send(0, 'echo/x', tensors, { transfer: true });
    }
  };
  const sink = async () => {
    for (;;) {
      const [count] = await transport.recv(0, 'count/x', forever);
      for (let i = Number(count?.data[0]); i > 0; i--) release(await transport.recv(0, 'sink/x', forever));
      await transport.send(0, 'count/x', []);
    }
  };
  for (const loop of [echo(), sink()]) loop.catch(() => undefined);
  await transport.recv(0, 'end/x', forever);
  await transport.close();
}

const common = (rank: number) => ({ rank, world: 2, job: 'bench' });

// ---- transports of one kind

const direct = (rank: number, listen?: TcpAddress) => listenTcp({ ...common(rank), secret: SECRET, listen });

export async function nearDirect(kind: 'tcp' | 'unix'): Promise<Near> {
  const endpoint = await direct(0, kind === 'unix' ? { path: socketPath(0) } : undefined);
  const { child, line } = await far(kind, JSON.stringify(endpoint.address));
  const near = nearOf(await endpoint.connect([endpoint.address, JSON.parse(line) as TcpAddress]));
  return andThenEnd(near, child);
}

export async function farDirect(kind: string, near: TcpAddress): Promise<void> {
  const endpoint = await direct(1, kind === 'unix' ? { path: socketPath(1) } : undefined);
  console.log(JSON.stringify(endpoint.address));
  await farOf(await endpoint.connect([near, endpoint.address]));
}

const overNats = (rank: number, url: string) =>
  createNatsTransport({ ...common(rank), nats: { servers: url }, chunkBytes: CHUNK, windowBytes: WINDOW });

export async function nearNats(url: string): Promise<Near> {
  const { child } = await far('nats', url);
  return andThenEnd(nearOf(await overNats(0, url)), child);
}

export async function farNats(url: string): Promise<void> {
  const transport = await overNats(1, url);
  console.log('{}');
  await farOf(transport);
}

export async function nearLocal(own: boolean): Promise<Near> {
  const links = createLocalLinks(2);
  const ports = links[1]?.ports as (MessagePort | null)[];
  const worker = new Worker(SELF, { workerData: { ports }, transferList: ports.filter((port) => port !== null) });
  const near = nearOf(createLocalTransport({ rank: 0, ports: links[0]?.ports ?? [] }), own);
  return {
    ...near,
    handsOver: true,
    close: async () => {
      await near.close();
      await worker.terminate();
    },
  };
}

export async function farLocal(ports: readonly (MessagePort | null)[]): Promise<void> {
  await farOf(createLocalTransport({ rank: 1, ports }));
}

// ---- links of endpoints: of this thread, or of a thread of connections, as agents have one, joined by relays

type Exchange = (address: LinkAddress) => Promise<LinkAddress>;

const endpoint = (rank: number) =>
  openEndpoint({
    ...common(rank),
    generation: 1,
    secret: SECRET,
    listen: { host: '127.0.0.1' },
    nats: null,
    deadlineMs: 20_000,
  });
const byRank = <T>(rank: number, own: T, other: T): T[] => (rank === 0 ? [own, other] : [other, own]);

async function linked(kind: LinkKind, rank: number, exchange: Exchange): Promise<Transport> {
  const own = await endpoint(rank);
  const addresses = byRank(rank, own.address, await exchange(own.address));
  let inbox: LinkInbox | null = null;
  // The peer may be quicker: what it sends before there is a transport is kept for it.
  const early: ((to: LinkInbox) => void)[] = [];
  const deliver = (what: (to: LinkInbox) => void) => {
    if (inbox) what(inbox);
    else early.push(what);
  };
  const links = await own.connect(addresses, byRank<LinkKind | '-'>(rank, '-', kind), () => ({
    message: (tag, tensors) => deliver((to) => to.message(tag, tensors)),
    credit: (channel, count) => deliver((to) => to.credit(channel, count)),
    sendingEnded: (reason) => deliver((to) => to.sendingEnded(reason)),
    receivingEnded: (reason) => deliver((to) => to.receivingEnded(reason)),
  }));
  const transport = new LinkedTransport({ name: kind, rank, world: 2 }, {}, (peer, made) => {
    if (peer === rank) return null;
    inbox = made;
    return links[peer] ?? null;
  });
  if (inbox) for (const what of early.splice(0)) what(inbox);
  return transport;
}

async function relayed(kind: LinkKind, rank: number, exchange: Exchange): Promise<Transport> {
  const { port1, port2 } = new MessageChannel();
  const relay: RelayRequest = { kind, rank, port: port2 };
  const worker = new Worker(SELF, { workerData: { relay }, transferList: [port2] });
  const [address] = (await once(worker, 'message')) as [LinkAddress];
  worker.postMessage(await exchange(address));
  await once(worker, 'message');
  const transport = createLocalTransport({ rank, ports: byRank<MessagePort | null>(rank, null, port1) });
  const close = transport.close.bind(transport);
  transport.close = async () => {
    const ended = once(worker, 'exit');
    await close();
    await ended;
  };
  return transport;
}

/** What the thread that owns the connections is started with. */
export interface RelayRequest {
  readonly kind: LinkKind;
  readonly rank: number;
  readonly port: MessagePort;
}

export async function relayThread({ kind, rank, port }: RelayRequest): Promise<void> {
  const own = await endpoint(rank);
  parentPort?.postMessage(own.address);
  const [other] = (await once(parentPort as MessagePort, 'message')) as [LinkAddress];
  const awake = setInterval(() => undefined, 1000);
  await relayAll(
    own,
    byRank(rank, own.address, other),
    byRank<LinkKind | '-'>(rank, '-', kind),
    byRank<MessagePort | null>(rank, null, port),
    () => void own.close('over').then(() => clearInterval(awake)),
  );
  parentPort?.postMessage('connected');
}

const makers = { linked, relayed };

export async function nearEndpoint(how: keyof typeof makers, kind: LinkKind): Promise<Near> {
  let child: ChildProcess | null = null;
  const transport = await makers[how](kind, 0, async (address) => {
    const other = await far(`${how}-${kind}`, JSON.stringify(address));
    child = other.child;
    return JSON.parse(other.line) as LinkAddress;
  });
  return andThenEnd(nearOf(transport), child as unknown as ChildProcess);
}

export async function farEndpoint(how: keyof typeof makers, kind: LinkKind, near: LinkAddress): Promise<void> {
  const transport = await makers[how](kind, 1, async (address) => {
    console.log(JSON.stringify(address));
    return near;
  });
  await farOf(transport);
}
