import { existsSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import {
  CommClosed,
  CommTimeout,
  listenTcp,
  type TcpEndpoint,
  type TcpOptions,
  type Transport,
} from '../../src/comm/index.ts';
import { float32, zeros } from '../../src/tensor/index.ts';
import { startRank } from './rank-process.ts';
import { transportConformance } from './transport-conformance.ts';
import { SECRET, tcpWorld } from './worlds.ts';

const pem = (name: string) => readFileSync(new URL(`tls/${name}.pem`, import.meta.url), 'utf8');
const tls = { cert: pem('cert'), key: pem('key'), ca: pem('cert'), servername: 'plexus.test' };

const open: { close(): Promise<void> }[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((one) => one.close()));
});

async function listen(rank: number, options: Partial<TcpOptions> = {}): Promise<TcpEndpoint> {
  const endpoint = await listenTcp({ rank, world: 2, job: 'test', secret: SECRET, deadlineMs: 20_000, ...options });
  open.push(endpoint);
  return endpoint;
}

/** Links two ranks with different options and returns what each says. */
async function meet(a: Partial<TcpOptions>, b: Partial<TcpOptions>): Promise<string[]> {
  const ends = [await listen(0, { deadlineMs: 3000, ...a }), await listen(1, { deadlineMs: 3000, ...b })];
  const results = await Promise.allSettled(ends.map((end) => end.connect(ends.map(({ address }) => address))));
  return results.map((result) => (result.status === 'rejected' ? String(result.reason.message) : 'linked'));
}

describe('direct links', () => {
  it('refuse a rank that does not know the secret, whichever end it is', async () => {
    for (const message of await meet({}, { secret: 'another secret of some length' }))
      expect(message).toMatch(/does not know the job's secret/);
    await expect(listen(0, { secret: 'short' })).rejects.toThrow(/at least 16 bytes/);
  });

  it('refuse a rank of another job, generation, world or with other credits, and name both', async () => {
    expect((await meet({}, { job: 'other' })).join()).toMatch(/is of job "other", this end "test"/);
    expect((await meet({ generation: 4 }, { generation: 5 })).join()).toMatch(/is of generation 5, this end 4/);
    expect((await meet({ credits: 8 }, {})).join()).toMatch(/uses credits 64, this end 8/);
    expect((await meet({}, { rank: 0 })).join()).toMatch(/rank 0/);
  });

  it('name the ranks that are missing at the deadline', async () => {
    const alone = await listen(0, { deadlineMs: 300 });
    await expect(alone.connect([alone.address, { host: '127.0.0.1', port: 1 }])).rejects.toThrow(
      /rank 0 (could not reach rank 1 at 127\.0\.0\.1:1|waited 300 ms for rank 1 to dial it)/,
    );
  });

  it('are not disturbed by strangers: garbage, a huge greeting, one that answers its own question', async () => {
    const a = await listen(0);
    const b = await listen(1);
    const { port } = a.address as { port: number };
    const strangers = [
      Buffer.from('GET / HTTP/1.1\r\n\r\n'),
      Buffer.from([0xff, 0xff, 1, 2, 3]),
      Buffer.from([0, 2, 0x7b, 0x7d]),
      Buffer.concat([Buffer.from([0, 4]), Buffer.from('null')]),
      Buffer.alloc(100_000, 0x41),
    ];
    const said = strangers.map(
      (bytes) =>
        new Promise<string>((resolve) => {
          const socket = connect({ host: '127.0.0.1', port });
          let answer = '';
          socket.on('data', (data) => {
            answer += data.toString('latin1');
          });
          socket.on('error', () => undefined);
          socket.on('close', () => resolve(answer));
          socket.write(bytes);
        }),
    );
    await Promise.all(said);
    const greeting = JSON.stringify({
      plexus: 1,
      job: 'test',
      generation: 0,
      world: 2,
      credits: 64,
      rank: 1,
      to: 0,
      purpose: 'stream',
      nonce: '00',
    });
    const echo = connect({ host: '127.0.0.1', port });
    const refused = new Promise<string>((resolve) => {
      let answer = '';
      echo.on('data', (data) => {
        answer += data.toString('latin1');
        if (!answer.includes('proof') || answer.includes('refused')) return;
        // Sends back the proof that it was given.
        const proof = /"proof":"(\w+)"/.exec(answer)?.[1];
        const reply = Buffer.from(JSON.stringify({ proof }));
        echo.write(Buffer.concat([Buffer.from([0, reply.length]), reply]));
      });
      echo.on('close', () => resolve(answer));
    });
    echo.write(Buffer.concat([Buffer.from([0, greeting.length]), Buffer.from(greeting)]));
    expect(await refused).toMatch(/does not know the job's secret/);

    const addresses = [a.address, b.address];
    const [ta, tb] = (await Promise.all([a.connect(addresses), b.connect(addresses)])) as [Transport, Transport];
    await ta.send(1, 'x', [float32([1], [1])]);
    expect((await tb.recv(0, 'x'))[0]?.data[0]).toBe(1);
  });

  it('refuse a tensor that is larger than allowed, count it and close', async () => {
    const [a, b] = (await tcpWorld(2, { maxTensorBytes: 1000 })) as [Transport, Transport];
    open.push(a, b);
    const waiting = b.recv(0, 'big');
    a.send(1, 'big', [zeros('float32', [251])]).catch(() => undefined);
    await expect(waiting).rejects.toThrow(/oversized/);
    expect(b.statistics().dropped).toMatchObject({ oversized: 1, corrupt: 0 });
  });

  it('stop listening once all are linked, and leave no socket file behind', async () => {
    const paths = [0, 1].map((rank) => join(tmpdir(), `plexus-test-${process.pid}-${rank}.sock`));
    const ends = await Promise.all(paths.map((path, rank) => listen(rank, { listen: { path } })));
    expect(paths.map(existsSync)).toEqual([true, true]);
    await Promise.all(ends.map((end) => end.connect(paths.map((path) => ({ path })))));
    expect(paths.map(existsSync)).toEqual([false, false]);
  });

  it('a rank that is killed is gone for the others at once', async () => {
    const a = await listen(0);
    const other = await startRank('tcp', { peer: a.address, program: 'idle' });
    const transport = await a.connect([a.address, other.address]);
    const waiting = transport.recv(1, 'never');
    other.child.kill('SIGKILL');
    await expect(waiting).rejects.toThrow(CommClosed);
    await expect(transport.send(1, 'x', [])).rejects.toThrow(CommClosed);
  });

  it('a rank that is frozen costs a deadline, not memory', async () => {
    const a = await listen(0, { deadlineMs: 1500 });
    const other = await startRank('tcp', { peer: a.address, program: 'idle' });
    const transport = await a.connect([a.address, other.address]);
    other.child.kill('SIGSTOP');
    try {
      const tensor = zeros('float32', [2 ** 21]);
      const before = process.memoryUsage().arrayBuffers;
      const sending = async () => {
        for (let i = 0; i < 64; i++) await transport.send(1, `x/${i}`, [tensor]);
      };
      const error = await sending().catch((e: unknown) => e);
      expect(error).toBeInstanceOf(CommTimeout);
      expect((error as Error).message).toMatch(/rank 0 waited .* rank 1 .*does not read/);
      expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(16 * 2 ** 20);
    } finally {
      other.child.kill('SIGKILL');
    }
  });
});

transportConformance('tcp with TLS', (world, options) => tcpWorld(world, { ...options, tls }));
