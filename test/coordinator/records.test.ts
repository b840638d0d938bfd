import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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
});
