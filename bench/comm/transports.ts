// Round trips and throughput of every transport between two processes (threads for `local`), each beside the raw thing
// that it is made of, in the same run: `node bench/run.mjs comm/transports [seconds per figure, default 0.4] [names]`.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, connect as dial, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isMainThread, MessageChannel, type MessagePort, parentPort, Worker, workerData } from 'node:worker_threads';
import { connect as natsConnect } from '@nats-io/transport-node';
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
  startNatsServer,
  type TcpAddress,
  type Transport,
} from '../../src/comm/index.ts';
import { float32, type HostTensor } from '../../src/tensor/index.ts';

const SIZES = [4096, 65_536, 2 ** 20, 2 ** 24];
const SECRET = 'only for a benchmark on one box';
const SELF = fileURLToPath(import.meta.url);
const CHUNK = 2 ** 20;
const WINDOW = 8 * 2 ** 20;

/** One end of a way to move bytes. The far end sends a message back for each on `echo`, and a short one for `count` on `sink`. */
interface Near {
  echo(bytes: number): Promise<void>;
  sink(bytes: number, count: number): Promise<void>;
  close(): Promise<void>;
}

// ---- the transports of Plexus

/** Tensors lie in scratch memory, as those of a gradient exchange do. */
function nearOf(transport: Transport): Near {
  const tensor = (bytes: number) => float32(scratch.take(bytes / 4), [bytes / 4]);
  return {
    echo: async (bytes) => {
      await transport.send(1, 'echo/x', [tensor(bytes)], { transfer: true });
      release(await transport.recv(1, 'echo/x'));
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
const direct = (rank: number, listen?: TcpAddress) => listenTcp({ ...common(rank), secret: SECRET, listen });

async function nearDirect(kind: 'tcp' | 'unix'): Promise<Near> {
  const endpoint = await direct(0, kind === 'unix' ? { path: socketPath(0) } : undefined);
  const { child, line } = await far(kind, JSON.stringify(endpoint.address));
  const near = nearOf(await endpoint.connect([endpoint.address, JSON.parse(line) as TcpAddress]));
  return andThenEnd(near, child);
}

async function nearNats(url: string): Promise<Near> {
  const { child } = await far('nats', url);
  return andThenEnd(nearOf(await createNatsTransport({ ...common(0), nats: { servers: url } })), child);
}

async function nearLocal(): Promise<Near> {
  const links = createLocalLinks(2);
  const ports = links[1]?.ports as (MessagePort | null)[];
  const worker = new Worker(SELF, { workerData: { ports }, transferList: ports.filter((port) => port !== null) });
  const near = nearOf(createLocalTransport({ rank: 0, ports: links[0]?.ports ?? [] }));
  return {
    ...near,
    close: async () => {
      await near.close();
      await worker.terminate();
    },
  };
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
  const relay = { kind, rank, port: port2 };
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

/** The thread that owns the connections. */
async function relayThread({ kind, rank, port }: { kind: LinkKind; rank: number; port: MessagePort }): Promise<void> {
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

async function nearEndpoint(how: keyof typeof makers, kind: LinkKind): Promise<Near> {
  let child: ChildProcess | null = null;
  const transport = await makers[how](kind, 0, async (address) => {
    const other = await far(`${how}-${kind}`, JSON.stringify(address));
    child = other.child;
    return JSON.parse(other.line) as LinkAddress;
  });
  return andThenEnd(nearOf(transport), child as unknown as ChildProcess);
}

// ---- the raw things

async function nearRawSocket(kind: 'tcp' | 'unix'): Promise<Near> {
  const server = createServer({ noDelay: true });
  await new Promise<void>((resolve) => {
    if (kind === 'unix') server.listen(socketPath(2), resolve);
    else server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  const where =
    typeof address === 'object' && address ? { host: '127.0.0.1', port: address.port } : { path: address as string };
  // As with the transport, each side dials what it receives on. Commands go as 16 bytes: size, count, whether to echo.
  const arriving = once(server, 'connection');
  const { child, line } = await far(`raw-socket`, JSON.stringify(where));
  const [out] = (await arriving) as [Socket];
  let left = 0;
  let done: () => void = () => undefined;
  const into = Buffer.alloc(2 ** 24);
  const inward = dial({
    ...(JSON.parse(line) as { port: number }),
    noDelay: true,
    onread: {
      buffer: () => into,
      callback: (count) => {
        left -= count;
        if (left === 0) done();
        return true;
      },
    },
  });
  await once(inward, 'connect');
  const data = Buffer.alloc(2 ** 24);
  const command = (bytes: number, count: number, echo: boolean) => {
    const header = Buffer.alloc(16);
    header.writeUInt32LE(bytes, 0);
    header.writeUInt32LE(count, 4);
    header.writeUInt32LE(echo ? 1 : 0, 8);
    out.write(header);
    left = echo ? bytes : 1;
    return new Promise<void>((resolve) => {
      done = resolve;
    });
  };
  const near: Near = {
    echo: async (bytes) => {
      const back = command(bytes, 1, true);
      out.write(data.subarray(0, bytes));
      await back;
    },
    sink: async (bytes, count) => {
      const back = command(bytes, count, false);
      for (let i = 0; i < count; i++)
        await new Promise<void>((resolve) => out.write(data.subarray(0, bytes), () => resolve()));
      await back;
    },
    close: async () => {
      out.end();
      inward.end();
      server.close();
    },
  };
  return andThenEnd(near, child);
}

async function farRawSocket(where: {
  readonly host?: string;
  readonly port?: number;
  readonly path?: string;
}): Promise<void> {
  const server = createServer({ noDelay: true });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  console.log(JSON.stringify({ port: typeof address === 'object' && address ? address.port : 0 }));
  const arriving = once(server, 'connection');
  const header = Buffer.alloc(16);
  const into = Buffer.alloc(2 ** 24);
  let headerLeft = 16;
  let left = 0;
  let out: Socket | null = null;
  const inward = dial({
    ...(where as { path: string }),
    onread: {
      buffer: () => (headerLeft > 0 ? header.subarray(16 - headerLeft) : into.subarray(0, Math.min(into.length, left))),
      callback: (count) => {
        if (headerLeft > 0) {
          headerLeft -= count;
          if (headerLeft === 0) left = header.readUInt32LE(0) * header.readUInt32LE(4);
          return true;
        }
        left -= count;
        if (left > 0) return true;
        headerLeft = 16;
        out?.write(header.readUInt32LE(8) ? into.subarray(0, header.readUInt32LE(0)) : Buffer.alloc(1));
        return true;
      },
    },
  });
  [out] = (await arriving) as [Socket];
  await once(inward, 'close');
  server.close();
}

/** The plain client: publish and subscribe in chunks, the receiver copies them together and grants credit. */
async function nearRawNats(url: string): Promise<Near> {
  const { child } = await far('raw-nats', url);
  const connection = await natsConnect({ servers: url });
  const data = new Uint8Array(2 ** 24);
  let underWay = 0;
  let wake: () => void = () => undefined;
  connection.subscribe('raw.credit', {
    callback: (_error, message) => {
      underWay -= Number(message.string());
      wake();
    },
  });
  let left = 0;
  let done: () => void = () => undefined;
  connection.subscribe('raw.back', {
    callback: (_error, message) => {
      left -= message.data.length;
      if (left <= 0) done();
    },
  });
  const send = async (subject: string, bytes: number) => {
    for (let at = 0; at < bytes; at += CHUNK) {
      const length = Math.min(CHUNK, bytes - at);
      while (underWay > 0 && underWay + length > WINDOW)
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      underWay += length;
      connection.publish(subject, data.subarray(at, at + length), { reply: String(bytes) });
    }
  };
  const expecting = (bytes: number) => {
    left = bytes;
    return new Promise<void>((resolve) => {
      done = resolve;
    });
  };
  await connection.flush();
  const near: Near = {
    echo: async (bytes) => {
      const back = expecting(bytes);
      await send('raw.echo', bytes);
      await back;
    },
    sink: async (bytes, count) => {
      for (let i = 0; i < count; i++) await send('raw.sink', bytes);
      const back = expecting(1);
      connection.publish('raw.ask', '');
      await back;
    },
    close: async () => {
      connection.publish('raw.end', '');
      await connection.close();
    },
  };
  return andThenEnd(near, child);
}

async function farRawNats(url: string): Promise<void> {
  const connection = await natsConnect({ servers: url });
  const tensor = new Uint8Array(2 ** 24);
  let at = 0;
  let owed = 0;
  const take = (data: Uint8Array, total: number) => {
    tensor.set(data, at);
    at = (at + data.length) % total;
    owed += data.length;
    if (owed < WINDOW / 4 && at > 0) return;
    connection.publish('raw.credit', String(owed));
    owed = 0;
  };
  connection.subscribe('raw.sink', { callback: (_error, message) => take(message.data, Number(message.reply)) });
  connection.subscribe('raw.echo', {
    callback: (_error, message) => {
      const total = Number(message.reply);
      take(message.data, total);
      if (at > 0) return;
      for (let from = 0; from < total; from += CHUNK)
        connection.publish('raw.back', tensor.subarray(from, Math.min(total, from + CHUNK)));
    },
  });
  connection.subscribe('raw.ask', { callback: () => connection.publish('raw.back', '.') });
  const end = once(connectionEnd(connection), 'end');
  await connection.flush();
  console.log('{}');
  await end;
  await connection.close();
}

function connectionEnd(connection: Awaited<ReturnType<typeof natsConnect>>): EventTarget {
  const target = new EventTarget();
  connection.subscribe('raw.end', {
    callback: () => {
      target.dispatchEvent(new Event('end'));
    },
  });
  return target;
}

// ---- processes and figures

function socketPath(rank: number): string {
  return join(tmpdir(), `plexus-bench-${process.pid}-${rank}.sock`);
}

/** Starts the far end in a process of its own and waits for its first line. */
async function far(kind: string, argument: string): Promise<{ child: ChildProcess; line: string }> {
  const child = spawn(process.execPath, [SELF, 'far', kind, argument], { stdio: ['ignore', 'pipe', 'inherit'] });
  let line = '';
  for await (const part of child.stdout) {
    line += String(part);
    if (line.includes('\n')) break;
  }
  return { child, line };
}

function andThenEnd(near: Near, child: ChildProcess): Near {
  return {
    ...near,
    close: async () => {
      const ended = once(child, 'exit');
      await near.close();
      await ended;
    },
  };
}

async function roundTrip(near: Near, bytes: number, seconds: number): Promise<number> {
  const times: number[] = [];
  const until = performance.now() + seconds * 1000;
  for (let i = 0; i < 5; i++) await near.echo(bytes);
  while (performance.now() < until || times.length < 5) {
    const start = performance.now();
    await near.echo(bytes);
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[times.length >> 1] as number;
}

/** GB/s, the best of three. */
async function throughput(near: Near, bytes: number, seconds: number): Promise<number> {
  let count = 4;
  let best = 0;
  for (let trial = 0; trial < 4; trial++) {
    const start = performance.now();
    await near.sink(bytes, count);
    const ms = performance.now() - start;
    if (trial > 0) best = Math.max(best, (bytes * count) / ms / 1e6);
    else count = Math.max(4, Math.min(20_000, Math.round((count * seconds * 333) / ms)));
  }
  return best;
}

async function main(): Promise<void> {
  const seconds = Number(process.argv[2] ?? 0.4);
  const wanted = process.argv.slice(3);
  const server = await startNatsServer();
  const rows: [name: string, make: () => Promise<Near>, raw: (() => Promise<Near>) | null][] = [
    ['tcp', () => nearDirect('tcp'), () => nearRawSocket('tcp')],
    ['unix', () => nearDirect('unix'), () => nearRawSocket('unix')],
    ['host', () => nearEndpoint('linked', 'host'), null],
    ['relayed tcp', () => nearEndpoint('relayed', 'tcp'), () => nearRawSocket('tcp')],
    ['relayed host', () => nearEndpoint('relayed', 'host'), null],
    ['nats', () => nearNats(server.url), () => nearRawNats(server.url)],
    // (Last: it leaves so much memory behind that Linux may refuse to start another process.)
    ['local', nearLocal, null],
  ];
  const show = (ms: number) => (ms < 1 ? `${Math.round(ms * 1000)} µs` : `${ms.toFixed(1)} ms`);
  console.log('| transport | bytes | round trip | raw | ratio | GB/s | raw | ratio |');
  console.log('| --- | --- | --- | --- | --- | --- | --- | --- |');
  for (const [name, make, raw] of rows) {
    if (wanted.length > 0 && !wanted.includes(name)) continue;
    const ends = [await make(), raw ? await raw() : null] as const;
    for (const bytes of SIZES) {
      // In turns, so that a busy moment of the box does not hit one of the two alone.
      const trip = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
      const rate = [0, 0];
      for (let turn = 0; turn < 2; turn++)
        for (const [i, near] of ends.entries()) {
          if (!near) continue;
          trip[i] = Math.min(trip[i] as number, await roundTrip(near, bytes, seconds / 2));
          rate[i] = Math.max(rate[i] as number, await throughput(near, bytes, seconds / 2));
        }
      const [ours, theirs] = trip as [number, number];
      const [fast, bound] = rate as [number, number];
      const columns = ends[1]
        ? [
            show(ours),
            show(theirs),
            (ours / theirs).toFixed(2),
            fast.toFixed(2),
            bound.toFixed(2),
            (fast / bound).toFixed(2),
          ]
        : [show(ours), '', '', fast.toFixed(2), '', ''];
      console.log(`| ${[name, bytes, ...columns].join(' | ')} |`);
    }
    for (const near of ends) await near?.close();
  }
  await server.stop();
}

if (!isMainThread && 'relay' in workerData) await relayThread(workerData.relay);
else if (!isMainThread) {
  const { ports } = workerData as { ports: (MessagePort | null)[] };
  await farOf(createLocalTransport({ rank: 1, ports }));
} else if (process.argv[2] === 'far') {
  const [, , , kind, argument = ''] = process.argv;
  if (kind === 'raw-socket') await farRawSocket(JSON.parse(argument) as { port: number });
  else if (kind === 'raw-nats') await farRawNats(argument);
  else if (kind === 'nats') {
    const transport = await createNatsTransport({ ...common(1), nats: { servers: argument } });
    console.log('{}');
    await farOf(transport);
  } else if (/^(linked|relayed)-/.test(kind ?? '')) {
    const [how, by] = (kind as string).split('-') as [keyof typeof makers, LinkKind];
    const transport = await makers[how](by, 1, async (address) => {
      console.log(JSON.stringify(address));
      return JSON.parse(argument) as LinkAddress;
    });
    await farOf(transport);
  } else {
    const endpoint = await direct(1, kind === 'unix' ? { path: socketPath(1) } : undefined);
    console.log(JSON.stringify(endpoint.address));
    await farOf(await endpoint.connect([JSON.parse(argument) as TcpAddress, endpoint.address]));
  }
} else {
  await main();
}
