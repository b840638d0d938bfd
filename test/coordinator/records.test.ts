import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectNats, type NatsServer, startNatsServer } from '../../src/comm/index.ts';
import { Records } from '../../src/coordinator/cluster/records.ts';
import { clusterKeys } from '../../src/worker/index.ts';

describe('the records of a job', () => {
  const folder = mkdtempSync(join(tmpdir(), 'plexus-records-'));
  const ending = new AbortController();
  let server: NatsServer;
  let looks: NatsConnection;
  let renews: NatsConnection;
  beforeAll(async () => {
    server = await startNatsServer({ storeDir: folder });
    looks = await connectNats({ servers: server.url });
    renews = await connectNats({ servers: server.url });
  });
  afterAll(async () => {
    ending.abort(new Error('the test is over'));
    await Promise.all([looks?.close(), renews?.close()]);
    await server?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  it('are listed to the end, each member once, however often leases are renewed meanwhile', async () => {
    const here = new Records(looks, 'j', 5000, ending.signal);
    const there = new Records(renews, 'j', 5000, ending.signal);
    const ids = ['a', 'b', 'c', 'gone'];
    for (const id of ids) await there.put(clusterKeys.member(id), { id, beat: 0 });
    await there.forget('gone');
    await here.put(clusterKeys.job, {});
    let renewing = true;
    const renewed = Promise.all(
      ids.slice(0, 3).map(async (id) => {
        for (let beat = 1; renewing; beat++) await there.put(clusterKeys.member(id), { id, beat });
      }),
    );
    try {
      for (let i = 0; i < 100; i++)
        expect((await here.members()).map(({ value }) => value.id).sort()).toEqual(['a', 'b', 'c']);
    } finally {
      renewing = false;
      await renewed;
    }
  }, 20_000);

  it('are written again where for a moment nobody answered for the bucket', async () => {
    const records = new Records(looks, 'moment', 5000, ending.signal);
    await records.put(clusterKeys.job, { steps: 1 });
    // As while a cluster elects who leads the bucket's stream: nobody listens on its subjects.
    await (await jetstreamManager(looks)).streams.delete(`KV_${clusterKeys.bucket('moment')}`);
    await records.put(clusterKeys.leader, { term: 2 });
    await records.restore();
    expect((await records.get(clusterKeys.leader))?.value).toEqual({ term: 2 });
    expect((await records.get(clusterKeys.job))?.value).toEqual({ steps: 1 });
  });

  it('cannot be had from a server without JetStream, and that is said at once', async () => {
    const plain = await startNatsServer();
    const there = await connectNats({ servers: plain.url });
    try {
      const records = new Records(there, 'j', 60_000, ending.signal);
      await expect(records.put(clusterKeys.job, {})).rejects.toThrow(/write 'job'.*with JetStream \(nats-server -js\)/);
    } finally {
      await there.close();
      await plain.stop();
    }
  });
});
