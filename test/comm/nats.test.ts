import { spawn } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  CommClosed,
  CommTimeout,
  createNatsTransport,
  FrameEncoder,
  findNatsServer,
  type NatsServer,
  NatsServerError,
  startNatsServer,
  type Transport,
} from '../../src/comm/index.ts';
import { float32, int32, zeros } from '../../src/tensor/index.ts';
import { startRank } from './rank-process.ts';
import { transportConformance } from './transport-conformance.ts';
import { natsWorld } from './worlds.ts';

let server: NatsServer;
let small: NatsServer;
let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'plexus-nats-'));
  const configFile = join(folder, 'small.conf');
  writeFileSync(configFile, 'max_payload: 65536\nauthorization { token: "let me in" }\n');
  [server, small] = await Promise.all([startNatsServer(), startNatsServer({ configFile })]);
});
afterAll(async () => {
  await Promise.all([server?.stop(), small?.stop()]);
  rmSync(folder, { recursive: true, force: true });
});

const open: { close(): Promise<void> }[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((one) => one.close()));
});
const world = async (url: string, options: Parameters<typeof natsWorld>[2] = {}) => {
  const transports = (await natsWorld(url, 2, { deadlineMs: 40_000, ...options })) as [Transport, Transport];
  open.push(...transports);
  return transports;
};

/** Message i of a stream: its number everywhere, and a length of its own. */
const numbered = (i: number) => {
  const size = 20_000 + (i % 7) * 9_001;
  return float32(new Float32Array(size).fill(i), [size]);
};

async function expectNumbered(transport: Transport, i: number): Promise<void> {
  const [tensor] = await transport.recv(0, 'x/m');
  const data = tensor!.data as Float32Array;
  if (data.length !== numbered(i).data.length || data.some((value) => value !== i))
    throw new Error(`message ${i} came as ${data.length} elements of ${data[0]}`);
}

describe('NATS', () => {
  it('servers killed and started again in mid-stream lose nothing and keep the order', async () => {
    const own = await startNatsServer();
    let running = own;
    const [a, b] = await world(own.url, { windowBytes: 2 ** 20, probeMs: 200 });
    const count = 300;
    const sending = (async () => {
      for (let i = 0; i < count; i++) await a.send(1, 'x/m', [numbered(i)]);
    })();
    sending.catch(() => undefined);
    try {
      for (let i = 0; i < count; i++) {
        await expectNumbered(b, i);
        if (i !== 50 && i !== 150) continue;
        // Messages are under way in both directions (credits too) at this moment.
        await running.stop('kill');
        running = await startNatsServer({ port: own.port });
      }
      await sending;
      expect(a.statistics().bytesResent).toBeGreaterThan(0);
      expect(b.statistics().messagesReceived).toBe(count);
    } finally {
      await Promise.all(open.splice(0).map((one) => one.close()));
      await running.stop();
    }
  });

  it('a server that stays away is a named deadline, and the link goes on when it is back', async () => {
    const own = await startNatsServer();
    const [a, b] = await world(own.url, { deadlineMs: 1500, windowBytes: 2 ** 16 });
    await a.send(1, 'x', [int32([1], [])]);
    await b.recv(0, 'x');
    await own.stop('kill');
    const waiting = b.recv(0, 'x').catch((error: unknown) => error);
    const kept = a.send(1, 'x', [int32([2], [])]);
    expect(await waiting).toBeInstanceOf(CommTimeout);
    await kept;
    const again = await startNatsServer({ port: own.port });
    try {
      expect((await b.recv(0, 'x', { deadlineMs: 20_000 }))[0]?.data[0]).toBe(2);
    } finally {
      await Promise.all(open.splice(0).map((one) => one.close()));
      await again.stop();
    }
  });

  it('what a rank says before the other is there arrives when it comes', async () => {
    const job = `late-${randomUUID().slice(0, 8)}`;
    const options = { world: 2, job, nats: { servers: server.url }, deadlineMs: 20_000 };
    const a = await createNatsTransport({ ...options, rank: 0 });
    open.push(a);
    for (let i = 0; i < 20; i++) await a.send(1, 'x/m', [numbered(i)]);
    const b = await createNatsTransport({ ...options, rank: 1 });
    open.push(b);
    for (let i = 0; i < 20; i++) await expectNumbered(b, i);
  });

  describe('with strangers on its subjects', () => {
    let stranger: NatsConnection;
    beforeAll(async () => {
      stranger = await connect({ servers: server.url });
    });
    afterAll(() => stranger?.close());

    it('drops and counts what is stale, foreign, corrupt or no frame, and loses nothing of its own', async () => {
      const job = `strangers-${randomUUID().slice(0, 8)}`;
      const [a, b] = await world(server.url, { job, generation: 7, windowBytes: 2 ** 19 });
      const subject = `plexus.${job}.0.1`;
      const route = { job, generation: 7, from: 0, to: 1 };
      const segment = (other: Partial<typeof route>, bytes = 100) => {
        const data = randomBytes(bytes);
        const header = new FrameEncoder({ ...route, ...other }).encode({ kind: 'segment', sequence: 0 }, data);
        return Buffer.concat([header, data]);
      };
      const sending = (async () => {
        for (let i = 0; i < 60; i++) await a.send(1, 'x/m', [numbered(i)]);
      })();
      for (let i = 0; i < 60; i++) {
        const torn = segment({});
        torn[80 + (i % 20)]! ^= 1 + (i % 255);
        stranger.publish(subject, torn);
        stranger.publish(subject, segment({}).subarray(0, 64 + i));
        stranger.publish(subject, segment({ generation: 6 }));
        stranger.publish(subject, segment({ job: 'other' }));
        stranger.publish(subject, segment({ from: 3 }));
        stranger.publish(subject, segment({}, 2 ** 19 + 1));
        stranger.publish(subject, randomBytes(i * 11));
        stranger.publish(`plexus.${job}.9.1`, segment({}));
        await expectNumbered(b, i);
      }
      await sending;
      await stranger.flush();
      // One more message through the same server: everything before it has arrived.
      await a.send(1, 'end', []);
      await b.recv(0, 'end');
      expect(b.statistics().dropped).toMatchObject({
        corrupt: 120,
        generation: 60,
        job: 60,
        peer: 120,
        oversized: 60,
        'not-a-frame': 60,
      });
    });

    it('closes a link whose other end was restarted within the generation', async () => {
      const job = `again-${randomUUID().slice(0, 8)}`;
      const [a, b] = await world(server.url, { job, lingerMs: 50 });
      await a.send(1, 'x', [zeros('uint8', [2 ** 20])]);
      await b.recv(0, 'x');
      await b.send(0, 'y', []);
      await a.recv(1, 'y');
      // (Everything is confirmed by now or a moment later.)
      const waiting = a.recv(1, 'z');
      const again = await createNatsTransport({ rank: 1, world: 2, job, nats: { servers: server.url }, lingerMs: 50 });
      open.push(again);
      await expect(waiting).rejects.toThrow(/restarted within the generation/);
      await expect(a.send(1, 'x', [])).rejects.toThrow(CommClosed);
    });
  });

  it('a frozen rank costs a deadline and no more memory than the window', async () => {
    const job = `frozen-${randomUUID().slice(0, 8)}`;
    const options = {
      rank: 0,
      world: 2,
      job,
      nats: { servers: server.url },
      deadlineMs: 1500,
      windowBytes: 2 ** 22,
      lingerMs: 50,
    };
    const a = await createNatsTransport(options);
    open.push(a);
    const other = await startRank('nats', { peer: server.url, job, program: 'idle' });
    other.child.kill('SIGSTOP');
    try {
      const tensor = zeros('float32', [2 ** 20]);
      const before = process.memoryUsage().arrayBuffers;
      const sending = async () => {
        for (let i = 0; i < 60; i++) await a.send(1, `x/${i}`, [tensor], { transfer: false });
      };
      const error = await sending().catch((e: unknown) => e);
      expect(error).toBeInstanceOf(CommTimeout);
      expect((error as Error).message).toMatch(/rank 0 waited .* rank 1/);
      // The window, and as much again in copies of the client.
      expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(24 * 2 ** 20);
    } finally {
      other.child.kill('SIGKILL');
    }
  });

  it('says what is wrong: no server, wrong login, a job that is no subject', async () => {
    const options = { rank: 0, world: 2, job: 'x', deadlineMs: 2000 };
    await expect(
      createNatsTransport({ ...options, nats: { servers: 'nats://127.0.0.1:1', maxReconnectAttempts: 0 } }),
    ).rejects.toThrow(/refused/i);
    await expect(createNatsTransport({ ...options, nats: { servers: small.url, token: 'wrong' } })).rejects.toThrow(
      /authorization/i,
    );
    await expect(createNatsTransport({ ...options, job: 'a.b', nats: {} })).rejects.toThrow(/"a\.b" cannot be part of/);
  });

  it('a server that this library has started does not outlive its process, even one that is killed', async () => {
    const built = new URL('../../dist/comm/index.js', import.meta.url).href;
    const code = `const { startNatsServer } = await import('${built}'); console.log((await startNatsServer()).port); setInterval(() => {}, 1000);`;
    const owner = spawn(process.execPath, ['--input-type=module', '-e', code], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = await once(owner.stdout, 'data');
    const client = await connect({ servers: `127.0.0.1:${Number(line)}`, reconnect: false });
    owner.kill('SIGKILL');
    // Resolves only when the server has gone.
    await client.closed();
  });

  it('a server that cannot start says why, one that is not installed says how to get it', async () => {
    const { PATH } = process.env;
    await expect(startNatsServer({ port: server.port })).rejects.toThrow(NatsServerError);
    process.env.PATH = folder;
    try {
      // (Found all the same where Debian puts it.)
      if (findNatsServer() === null) await expect(startNatsServer()).rejects.toThrow(/apt-get install nats-server/);
    } finally {
      process.env.PATH = PATH;
    }
  });
});

transportConformance('nats with max_payload 64 KB and a small window', (size, options) =>
  natsWorld(small.url, size, {
    ...options,
    nats: { servers: small.url, token: 'let me in' },
    windowBytes: 2 ** 18,
  }),
);
