import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runtime } from '../../scripts/runtimes.mjs';
import {
  createNatsTransport,
  listenTcp,
  type NatsServer,
  startNatsServer,
  type Transport,
} from '../../src/comm/index.ts';
import { bytesOf, float32, int32, zeros } from '../../src/tensor/index.ts';
import { hostPair, startRank } from '../comm/rank-process.ts';
import { SECRET } from '../comm/worlds.ts';

// Elsewhere than in CI a machine without the registry, or of another kind, still passes the rest of the suite.
let deno: string | null = null;
try {
  deno = runtime('deno');
} catch (error) {
  if (process.env.CI) throw error;
}

/** Sends tensors of several sizes there and back, many under way at a time, then ends the other rank. */
async function throughAndBack(transport: Transport): Promise<void> {
  const messages = [
    [
      float32(
        new Float32Array(2 ** 20).map((_, i) => Math.fround(i * 0.1)),
        [1024, 1024],
      ),
    ],
    [int32([1, 2, 3], [3]), zeros('int64', [0]), float32(new Float32Array(5000).fill(7), [5000])],
    [zeros('bfloat16', [70_001])],
  ];
  for (let round = 0; round < 5; round++) {
    const sending = messages.map((tensors) => transport.send(1, 'there/x', tensors));
    for (const tensors of messages) {
      const back = await transport.recv(1, 'back/x');
      expect(back.map(({ dtype, shape }) => [dtype, shape])).toEqual(tensors.map(({ dtype, shape }) => [dtype, shape]));
      back.forEach(({ data }, i) => {
        expect(Buffer.compare(bytesOf(data), bytesOf(tensors[i]!.data))).toBe(0);
      });
    }
    await Promise.all(sending);
  }
  await transport.send(1, 'there/x', []);
  expect(await transport.recv(1, 'back/x')).toEqual([]);
}

describe.skipIf(deno === null)('a rank under Deno and one under Node are linked by', () => {
  const command = [deno ?? '', 'eval'];
  let server: NatsServer;
  beforeAll(async () => {
    server = await startNatsServer();
  });
  afterAll(() => server?.stop());

  it.each(['tcp', 'unix'] as const)('%s', async (kind) => {
    const path = (rank: number) => ({ path: join(tmpdir(), `plexus-deno-${process.pid}-${rank}.sock`) });
    const listen = kind === 'unix' ? path(0) : undefined;
    const endpoint = await listenTcp({ rank: 0, world: 2, job: 'test', secret: SECRET, deadlineMs: 40_000, listen });
    const other = await startRank('tcp', {
      peer: endpoint.address,
      program: 'echo',
      command,
      listen: kind === 'unix' ? path(1) : undefined,
    });
    const transport = await endpoint.connect([endpoint.address, other.address]);
    await throughAndBack(transport);
    await transport.close();
    expect(await other.ended).toBe(0);
  });

  it('host', async () => {
    const { transport, other } = await hostPair('echo', { command, deadlineMs: 40_000 });
    await throughAndBack(transport);
    await transport.close();
    expect(await other.ended).toBe(0);
  });

  it('nats', async () => {
    const transport = await createNatsTransport({
      rank: 0,
      world: 2,
      job: 'deno',
      deadlineMs: 40_000,
      nats: { servers: server.url },
    });
    const other = await startRank('nats', { peer: server.url, job: 'deno', program: 'echo', command });
    await throughAndBack(transport);
    await transport.close();
    expect(await other.ended).toBe(0);
  });
});
