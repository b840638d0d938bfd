import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/transport-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectNats, type NatsServer, startNatsServer } from '../../src/comm/index.ts';

let folder: string;
let server: NatsServer;
const logins = new Map<string, NatsConnection>();

/** Subjects that the server has refused, as it names them. */
const refused = new Map<string, string[]>();

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'plexus-permissions-'));
  const text = readFileSync(join(import.meta.dirname, '../../configs/cluster/nats-server.conf'), 'utf8');
  const configFile = join(folder, 'nats-server.conf');
  writeFileSync(
    configFile,
    text
      .replace('store_dir: "./nats"', `store_dir: ${JSON.stringify(join(folder, 'js'))}`)
      .replaceAll(/\$[A-Z]+_PASSWORD/g, '"secret"'),
  );
  server = await startNatsServer({ configFile });
  for (const user of ['worker', 'coordinator']) {
    const connection = await connectNats({ servers: server.url, user, password: 'secret' });
    const list: string[] = [];
    logins.set(user, connection);
    refused.set(user, list);
    void (async () => {
      for await (const status of connection.status())
        if (status.type === 'error') list.push(/"([^"]+)"/.exec(status.error.message)?.[1] ?? status.error.message);
    })();
  }
});
afterAll(async () => {
  await Promise.all([...logins.values()].map((connection) => connection.close()));
  await server?.stop();
  rmSync(folder, { recursive: true, force: true });
});

const WORKER_WRITES = ['plexus.j.0.1', 'plexus.j.events', 'plexus.j.logs', 'plexus.j.blobs.w2', 'plexus.j.replicas.w2'];
const COORDINATOR_WRITES = ['plexus.j.agent.w1', 'plexus.j.leader', '$KV.plexus-j.generation', '$KV.plexus-j.leader'];
const WORKER_READS = [
  'plexus.j.*.1',
  'plexus.j.agent.w1',
  'plexus.j.blobs.w1',
  'plexus.j.replicas.w1',
  '$KV.plexus-j.generation',
];

describe('nats-server.conf', () => {
  const tried = async (user: string, act: (connection: NatsConnection) => void) => {
    const connection = logins.get(user)!;
    act(connection);
    // (What the server refuses it says before it answers the flush; it is told a turn later.)
    await connection.flush();
    await new Promise((resolve) => setImmediate(resolve));
    return refused.get(user)!.splice(0);
  };
  const publishing = (user: string, subjects: readonly string[]) =>
    tried(user, (connection) => subjects.forEach((subject) => void connection.publish(subject)));
  const listening = (user: string, subjects: readonly string[]) =>
    tried(user, (connection) => {
      for (const subject of subjects) connection.subscribe(subject, { callback: () => undefined });
    });

  it('lets a worker do what a worker does', async () => {
    expect(await publishing('worker', [...WORKER_WRITES, '$KV.plexus-j.members.w1'])).toEqual([]);
    expect(await listening('worker', WORKER_READS)).toEqual([]);
  });

  it('lets a worker neither lead, order, change what is run nor delete', async () => {
    const forbidden = [
      ...COORDINATOR_WRITES,
      '$KV.plexus-j.job',
      '$KV.plexus-j.position',
      '$JS.API.STREAM.DELETE.KV_plexus-j',
      '$JS.API.STREAM.PURGE.KV_plexus-j',
      'other.subject',
    ];
    expect((await publishing('worker', forbidden)).sort()).toEqual(forbidden.sort());
    const unheard = ['plexus.j.leader', 'plexus.j.events', '$KV.plexus-j.job', '>'];
    expect((await listening('worker', unheard)).sort()).toEqual(unheard.sort());
  });

  it('lets a coordinator do all that belongs to jobs', async () => {
    const all = [...WORKER_WRITES, ...COORDINATOR_WRITES, '$KV.plexus-j.job', '$JS.API.STREAM.INFO.KV_plexus-j'];
    expect(await publishing('coordinator', all)).toEqual([]);
    expect(await listening('coordinator', ['plexus.j.leader', 'plexus.j.events', '$KV.plexus-j.>'])).toEqual([]);
    expect(await publishing('coordinator', ['other.subject'])).toEqual(['other.subject']);
  });
});
