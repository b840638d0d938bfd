import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { FaultProxy } from './fault-proxy.ts';
import { Network } from './namespaces.ts';
import { answers, NatsServers } from './nats.ts';
import { livingIn, Processes } from './processes.ts';

const endings: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

/** A server that sends back whatever it gets. */
async function echoServer(): Promise<{ host: string; port: number }> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined).pipe(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  endings.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { host: '127.0.0.1', port: (server.address() as { port: number }).port };
}

async function open(proxy: FaultProxy): Promise<Socket> {
  const socket = connect({ host: proxy.host, port: proxy.port, noDelay: true });
  endings.push(() => socket.destroy());
  await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  return socket;
}

/** Sends bytes and waits for as many to come back; milliseconds that took. */
async function roundTrip(socket: Socket, bytes: number): Promise<number> {
  const began = performance.now();
  let left = bytes;
  const back = new Promise<void>((resolve, reject) => {
    const data = (chunk: Buffer) => {
      left -= chunk.length;
      if (left > 0) return;
      socket.off('data', data);
      resolve();
    };
    socket.on('data', data).once('close', () => reject(new Error(`closed with ${left} bytes to come`)));
  });
  socket.write(Buffer.alloc(bytes, 7));
  await back;
  return performance.now() - began;
}

const closed = (socket: Socket): Promise<void> =>
  new Promise((resolve) => socket.on('error', () => undefined).once('close', () => resolve()));

it('a fault proxy delays, limits, cuts, swallows and heals', async () => {
  const proxy = await FaultProxy.start(await echoServer());
  endings.push(() => proxy.close());
  const socket = await open(proxy);
  expect(await roundTrip(socket, 300_000)).toBeLessThan(2000);

  await proxy.set({ delayMs: 50 });
  expect(await roundTrip(socket, 10)).toBeGreaterThanOrEqual(99);
  await proxy.set({ delayMs: 0, bytesPerSecond: 1_000_000 });
  // One direction fills while the other empties: 200 kB at 1 MB/s.
  expect(await roundTrip(socket, 200_000)).toBeGreaterThanOrEqual(190);
  await proxy.heal();

  await proxy.set({ blackHole: true });
  let through = false;
  const late = roundTrip(socket, 1000).then((ms) => {
    through = true;
    return ms;
  });
  const second = await open(proxy);
  await new Promise((resolve) => setTimeout(resolve, 150));
  expect(through).toBe(false);
  await proxy.heal();
  expect(await late).toBeGreaterThanOrEqual(150);
  expect(await roundTrip(second, 1000)).toBeLessThan(2000);

  const gone = [closed(socket), closed(second)];
  const { cuts, open: left } = await proxy.cut();
  await Promise.all(gone);
  expect({ cuts, left }).toEqual({ cuts: 1, left: 0 });
  await proxy.set({ cutEveryMs: 50 });
  await closed(await open(proxy));
  await proxy.set({ cutEveryMs: 0, refuse: true });
  const refused = connect({ host: proxy.host, port: proxy.port });
  await closed(refused);
  expect(refused.bytesRead).toBe(0);
});

it('hosts reach each other until a partition, and again after it', async () => {
  const network = await Network.create(2);
  endings.push(() => network.close());
  const { address } = network.host(1);
  const processes = new Processes();
  endings.push(() => processes.close());
  const listener = `require('node:net').createServer((s) => s.end('hello')).listen(7000, () => console.log('listens'))`;
  const server = processes.start('listener', [process.execPath, '-e', listener], { prefix: network.host(1).prefix });
  await processes.until('the listener', 10_000, () => server.lines.length > 0);
  const dial = `const s = require('node:net').connect({ host: '${address}', port: 7000, timeout: 700 });
    s.on('data', (d) => { console.log(String(d)); s.destroy(); }).on('timeout', () => s.destroy(new Error('timeout')));`;
  const hello = () => network.run(0, [process.execPath, '-e', dial]);
  expect(await hello()).toBe('hello\n');
  await network.partition(1);
  await expect(hello()).rejects.toThrow(/timeout|EHOSTUNREACH/);
  await network.heal(1);
  expect(await hello()).toBe('hello\n');
});

it('processes end with their test, and a wait that runs out shows what they said', async () => {
  const processes = new Processes();
  endings.push(() => processes.close());
  const proc = processes.start('sleeper', ['/bin/sh', '-c', 'echo awake; sleep 100 & sleep 100']);
  await processes.until('a line', 5000, () => proc.lines.some((line) => line.includes('awake')));
  expect(proc.rss()).toBeGreaterThan(0);
  await expect(processes.until('a miracle', 100, () => undefined)).rejects.toThrow(
    /a miracle: not after 100 ms[\s\S]*sleeper \(running[\s\S]*awake/,
  );
  proc.signal('SIGSTOP');
  await processes.close();
  expect(proc.exit).toEqual({ code: null, signal: 'SIGKILL' });
  // (What has been killed goes when the system gets round to it.)
  await vi.waitFor(() => expect(livingIn(proc.pid)).toEqual([]), { timeout: 5000 });
});

it('nats-server is killed and comes back on its port', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'plexus-chaos-'));
  endings.push(() => rmSync(folder, { recursive: true }));
  const processes = new Processes();
  endings.push(() => processes.close());
  const servers = await NatsServers.start(processes, folder);
  const port = Number(new URL(servers.urls[0]!).port);
  expect(await answers('127.0.0.1', port)).toBe(true);
  await servers.kill();
  expect(await answers('127.0.0.1', port)).toBe(false);
  await servers.restart();
  expect(await answers('127.0.0.1', port)).toBe(true);
});
