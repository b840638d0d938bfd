import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/transport-node';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  BlobGone,
  BlobServer,
  BlobTimeout,
  connectNats,
  fetchBlob,
  type NatsServer,
  startNatsServer,
} from '../../src/comm/index.ts';
import { lossyBus, seeded } from './lossy-bus.ts';
import { SECRET } from './worlds.ts';

const pattern = (bytes: number) => Uint8Array.from({ length: bytes }, (_, i) => (i * 31 + (i >> 8)) & 255);
const same = (a: Uint8Array, b: Uint8Array) => expect(Buffer.compare(a, b)).toBe(0);

describe('blobs over a connection that loses two of five messages', () => {
  it('come whole', async () => {
    const bus = lossyBus();
    const random = seeded(11);
    bus.hurry = 1 / 100;
    const nats = bus.connect();
    const server = new BlobServer({ nats, job: 'x', owner: 'a', secret: SECRET, listen: null });
    const bytes = pattern(120_000);
    server.offer('snap', bytes);
    bus.lose = () => random() < 0.4;
    const common = { nats: bus.connect(), job: 'x', owner: 'a', blob: 'snap', secret: SECRET, way: 'nats' as const };
    same(await fetchBlob({ ...common, offset: 5, length: 119_990, deadlineMs: 20_000 }), bytes.subarray(5, 119_995));
    bus.lose = () => true;
    const late = fetchBlob({ ...common, offset: 5, length: 10, deadlineMs: 60 });
    await expect(late).rejects.toThrow(BlobTimeout);
    await expect(late).rejects.toThrow(
      /bytes 5 to 15 of blob "snap" of a did not come within 60 ms \(no answer within/,
    );
    await server.close();
  });

  it('are asked for again at bounded distances, however often in a row an answer is lost', async () => {
    const bus = lossyBus();
    bus.hurry = 1 / 100;
    const nats = bus.connect();
    const server = new BlobServer({ nats, job: 'x', owner: 'a', secret: SECRET, listen: null });
    const bytes = pattern(10);
    server.offer('snap', bytes);
    let left = 13;
    bus.lose = () => left-- > 0;
    const ask = { nats: bus.connect(), job: 'x', owner: 'a', blob: 'snap', secret: SECRET, way: 'nats' as const };
    // Doubled without end the thirteenth would wait for 41 s by this bus's hurried clock, long past the deadline.
    same(await fetchBlob({ ...ask, offset: 0, length: 10, deadlineMs: 20_000 }), bytes);
    expect(left).toBeLessThan(0);
    await server.close();
  });
});

describe('blobs', () => {
  let nats: NatsServer;
  let folder: string;
  let own: NatsConnection;
  let child: ChildProcess | null = null;
  const servers: BlobServer[] = [];
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'plexus-blob-'));
    writeFileSync(join(folder, 'small.conf'), 'max_payload: 65536\n');
    nats = await startNatsServer({ configFile: join(folder, 'small.conf') });
    own = await connectNats({ servers: nats.url });
  });
  afterEach(async () => {
    child?.kill('SIGKILL');
    child = null;
    await Promise.all(servers.splice(0).map((server) => server.close()));
  });
  afterAll(async () => {
    await own?.close();
    await nats?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  let number = 0;
  const serve = () => {
    const owner = `agent-${number++}`;
    const server = new BlobServer({ nats: own, job: 'x', owner, secret: SECRET });
    servers.push(server);
    return { server, ask: { nats: own, job: 'x', owner, secret: SECRET, deadlineMs: 20_000 } };
  };

  it('come over NATS and over a unix socket, into fresh, given and shared memory, many at once', async () => {
    const { server, ask } = serve();
    const bytes = pattern(3_000_001);
    const shared = new SharedArrayBuffer(bytes.length);
    new Uint8Array(shared).set(bytes);
    server.offer('plain', bytes);
    server.offer('shared', shared);
    server.offer('read', {
      length: bytes.length,
      read: async (offset, length) => bytes.slice(offset, offset + length),
    });
    for (const way of ['nats', 'auto'] as const)
      for (const blob of ['plain', 'shared', 'read']) {
        same(await fetchBlob({ ...ask, way, blob, offset: 0, length: bytes.length }), bytes);
        const into = new Uint8Array(new SharedArrayBuffer(2_000_000), 8);
        const got = await fetchBlob({ ...ask, way, blob, offset: 77, length: 1_000_000, into });
        expect([got.buffer, got.length]).toEqual([into.buffer, 1_000_000]);
        same(got, bytes.subarray(77, 1_000_077));
      }
    const many = Array.from({ length: 50 }, (_, i) =>
      fetchBlob({ ...ask, blob: 'plain', offset: i * 1000, length: 50_000 }),
    );
    for (const [i, got] of (await Promise.all(many)).entries()) same(got, bytes.subarray(i * 1000, i * 1000 + 50_000));
    expect((await fetchBlob({ ...ask, blob: 'plain', offset: 5, length: 0 })).length).toBe(0);
  });

  it('that are not there, withdrawn in between, or asked for by strangers are named errors', async () => {
    const { server, ask } = serve();
    const bytes = pattern(4_000_000);
    const withdraw = server.offer('snap', {
      length: bytes.length,
      read: async (offset, length) => {
        if (offset > 2_000_000) withdraw();
        return bytes.subarray(offset, offset + length);
      },
    });
    expect(() => server.offer('snap', bytes)).toThrow(/"snap" is offered already/);
    for (const way of ['nats', 'auto'] as const) {
      const gone = fetchBlob({ ...ask, way, blob: 'nothing', offset: 0, length: 10 });
      await expect(gone).rejects.toThrow(BlobGone);
      await expect(gone).rejects.toThrow(
        new RegExp(`bytes 0 to 10 of blob "nothing" of ${ask.owner}: blob "nothing" is not offered`),
      );
      const range = fetchBlob({ ...ask, way, blob: 'snap', offset: 3_999_999, length: 2 });
      await expect(range).rejects.toThrow(/has 4000000 bytes; 3999999 to 4000001 were asked for/);
      const strange = fetchBlob({
        ...ask,
        way,
        secret: 'another secret of 16',
        blob: 'snap',
        offset: 0,
        length: 2,
        deadlineMs: 300,
      });
      await expect(strange).rejects.toThrow(/does not know the job's secret/);
    }
    await expect(fetchBlob({ ...ask, blob: 'snap', offset: 0, length: 4_000_000 })).rejects.toThrow(BlobGone);
    const stop = new AbortController();
    const stopped = fetchBlob({ ...ask, owner: 'nobody', blob: 'x', offset: 0, length: 1, signal: stop.signal });
    stop.abort(new Error('a new generation'));
    await expect(stopped).rejects.toThrow('a new generation');
    await expect(
      fetchBlob({ ...ask, owner: 'nobody', blob: 'x', offset: 0, length: 1, deadlineMs: 300 }),
    ).rejects.toThrow(/blob "x" of nobody did not come within 300 ms \(nobody offers blobs of nobody\)/);
  });

  /** A server of blobs in a process of its own, which takes itself to be on another machine. */
  const elsewhere = async (owner: string, bytes: number): Promise<ChildProcess> => {
    const code = `import { BlobServer, connectNats } from '${new URL('../../dist/comm/index.js', import.meta.url).href}';
      const nats = await connectNats({ servers: '${nats.url}' });
      const server = new BlobServer({ nats, job: 'x', owner: '${owner}', secret: '${SECRET}', listen: { host: '127.0.0.1' } });
      const bytes = Uint8Array.from({ length: ${bytes} }, (_, i) => (i * 31 + (i >> 8)) & 255);
      server.offer('snap', bytes);
      server.offer('slow', { length: bytes.length, read: async (offset, length) => {
        if (offset > 0) { console.log('half'); await new Promise(() => {}); }
        return bytes.subarray(offset, offset + length); } });
      await nats.flush();
      console.log('ready');`;
    const process_ = spawn(process.execPath, ['--input-type=module', '-e', code], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, PLEXUS_HOST_ID: 'elsewhere' },
    });
    child = process_;
    await once(process_.stdout, 'data');
    return process_;
  };

  it('come over TCP from another process; one that dies in between is a named error', async () => {
    const bytes = pattern(5_000_000);
    const process_ = await elsewhere('far', bytes.length);
    const ask = { nats: own, job: 'x', owner: 'far', secret: SECRET, deadlineMs: 20_000 };
    const before = own.stats().inBytes;
    same(await fetchBlob({ ...ask, blob: 'snap', offset: 0, length: bytes.length }), bytes);
    expect(own.stats().inBytes - before).toBeLessThan(100_000);
    const half = once(process_.stdout!, 'data');
    const dying = fetchBlob({ ...ask, blob: 'slow', offset: 0, length: bytes.length, deadlineMs: 2500 });
    dying.catch(() => undefined);
    await half;
    process_.kill('SIGKILL');
    await expect(dying).rejects.toThrow(BlobTimeout);
    await expect(dying).rejects.toThrow(/directly: .*; nobody offers blobs of far/);
  });

  it('go on over a server that is killed and started again', async () => {
    const bytes = pattern(20_000_000);
    const { server, ask } = serve();
    server.offer('snap', bytes);
    const fetching = fetchBlob({ ...ask, way: 'nats', blob: 'snap', offset: 0, length: bytes.length });
    await new Promise((resolve) => setTimeout(resolve, 20));
    await nats.stop('kill');
    nats = await startNatsServer({ port: nats.port });
    same(await fetching, bytes);
  });
});
