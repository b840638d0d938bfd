import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectNats, type NatsServer, startNatsServer } from '../../src/comm/index.ts';
import { type CheckpointInfo, fetchRun, natsStore, storedRuns, verifyCheckpoint } from '../../src/coordinator/index.ts';
import { createRng, float32, type HostTensor, writeSafetensors } from '../../src/tensor/index.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-store-'));
let server: NatsServer;
let connection: NatsConnection;
beforeAll(async () => {
  server = await startNatsServer({ storeDir: join(root, 'js') });
  connection = await connectNats({ servers: server.url });
});
afterAll(async () => {
  await connection.close();
  await server.stop('kill');
  rmSync(root, { recursive: true });
});

const info = (step: number): CheckpointInfo => ({
  step,
  seed: 1,
  batch: { global: 8, micro: 2 },
  engine: 'test',
  mesh: { data: 1, pipeline: 2, expert: 1 },
  wall_s: 1.5,
  recoveries: 0,
});

/** Two shards, of 1.6 MB and of a few bytes. */
const shards = (step: number) => async (folder: string) => {
  const rng = createRng(`shard ${step}`);
  const large = Float32Array.from({ length: 400_000 }, () => rng.integer(1000));
  const contents: Record<string, HostTensor>[] = [
    { 'param/a': float32(large, [400_000]) },
    { 'param/b': float32([step], [1]), 'optim/m/b': float32([-step], [1]) },
  ];
  return Promise.all(
    contents.map(async (tensors, i) => {
      const file = `shard-p${i}-d0.safetensors`;
      const { sha256 } = await writeSafetensors(join(folder, file), tensors);
      return { file, sha256, tensors: Object.keys(tensors) };
    }),
  );
};

/** A run folder on one of several machines. */
function machine(name: string, run: string): string {
  const folder = join(root, name, run);
  mkdirSync(folder, { recursive: true });
  return folder;
}

let jobs = 0;
async function started(run = 'my.run') {
  const job = `j${jobs++}`;
  const folder = machine(`first-${job}`, run);
  writeFileSync(join(folder, 'config.yaml'), 'name: x\n');
  writeFileSync(join(folder, 'metrics.jsonl'), '{"step":1,"loss":2}\n');
  writeFileSync(join(folder, 'summary.json'), '{}');
  const at = { connection, job, run };
  return { ...at, at, folder, store: await natsStore({ ...at, folder }) };
}

/** Replaces or deletes what is stored of a checkpoint. */
async function damage(job: string, step: number, how: 'delete' | 'change' | 'manifest'): Promise<void> {
  const manager = await jetstreamManager(connection);
  const stream = `plexus-${job}-checkpoints`;
  const all = `plexus.${job}.checkpoints`;
  const { state } = await manager.streams.info(stream, { subjects_filter: `${all}.data.*.${step}.>` });
  const [subject = ''] = Object.keys(state.subjects ?? {}).filter((name) => name.endsWith('.0.1'));
  if (how === 'delete') await manager.streams.purge(stream, { filter: subject });
  const found = how === 'change' ? await manager.direct.getMessage(stream, { last_by_subj: subject }) : null;
  if (found)
    await jetstream(connection).publish(
      subject,
      found.data.map((byte, i) => (i === 77 ? byte ^ 1 : byte)),
    );
  if (how === 'manifest') await jetstream(connection).publish(`${all}.manifest.my%2Erun.${step}`, '{"format":1');
}

describe('checkpoints on NATS', () => {
  it('are kept, listed and pruned as in a folder', async () => {
    const { store, folder, job, at } = await started();
    expect(await store.steps()).toEqual([]);
    await expect(store.newest()).rejects.toThrow(/no checkpoint of run 'my\.run' on NATS/);
    for (const step of [2, 4, 6, 8]) {
      expect(await store.save(info(step), shards(step))).toMatchObject({
        step,
        path: join(folder, 'checkpoints', `step-${step}`),
      });
      await store.prune({ last: 1, every: 4 });
    }
    expect(await store.steps()).toEqual([8, 4]);
    expect(await storedRuns(connection, job)).toEqual(new Map([['my.run', [8, 4]]]));
    const other = await natsStore({ ...at, folder: machine(`listing-${job}`, 'my.run') });
    expect(await other.steps()).toEqual([8, 4]);
    await expect(other.newest(6)).rejects.toThrow(/no checkpoint of step 6 .*; there are: 8, 4/);
    const manager = await jetstreamManager(connection);
    const { state } = await manager.streams.info(`plexus-${job}-checkpoints`, { subjects_filter: '>' });
    const steps = new Set(Object.keys(state.subjects ?? {}).map((name) => name.split('.')[5]));
    expect([...steps].sort()).toEqual(['4', '8']);
  });

  it('bring a run to a machine that has never seen it', async () => {
    const { store, folder, at, job } = await started();
    await store.save(info(3), shards(3));
    await store.save(info(5), shards(5));
    const dir = join(root, `second-${job}`);
    const { path, warnings } = await fetchRun({ ...at, dir });
    expect([path, warnings]).toEqual([join(dir, 'my.run'), []]);
    expect((await readdir(path)).sort()).toEqual(['checkpoints', 'config.yaml', 'metrics.jsonl']);
    expect(await readdir(join(path, 'checkpoints'))).toEqual(['step-5']);
    for (const name of ['config.yaml', 'metrics.jsonl', 'checkpoints/step-5/shard-p0-d0.safetensors'])
      expect((await readFile(join(path, name))).equals(await readFile(join(folder, name)))).toBe(true);
    expect(await verifyCheckpoint(join(path, 'checkpoints/step-5'))).toMatchObject({ step: 5 });
    await expect(fetchRun({ ...at, run: 'other', dir })).rejects.toThrow(/no run 'other'.*there are: my\.run/);
  });

  it.each(['delete', 'change', 'manifest'] as const)(
    'that are damaged are skipped for the one before (%s)',
    async (how) => {
      const { store, at, job } = await started();
      await store.save(info(3), shards(3));
      await store.save(info(5), shards(5));
      await damage(job, 5, how);
      const { path, warnings } = await fetchRun({ ...at, dir: join(root, `third-${job}`) });
      expect(warnings).toEqual([
        expect.stringMatching(/skipped a damaged checkpoint: .*(is missing|has changed|not valid JSON)/),
      ]);
      expect(await readdir(join(path, 'checkpoints'))).toEqual(['step-3']);
      // Where it is whole on the disk it is used from there.
      expect((await store.newest()).index.step).toBe(5);
    },
  );

  it('of the same step replace one another, and what is half sent counts for nothing', async () => {
    const { store, at, job } = await started();
    await store.save(info(3), shards(3));
    await store.save(info(3), shards(33));
    // As if a coordinator had died while it was sending.
    await jetstream(connection).publish(`plexus.${job}.checkpoints.data.my%2Erun.9.abcd.0.0`, 'half');
    const there = await natsStore({ ...at, folder: machine(`fourth-${job}`, 'my.run') });
    const { path, index } = await there.newest();
    expect(index.step).toBe(3);
    expect(await there.steps()).toEqual([3]);
    const again = machine(`again-${job}`, 'x');
    const [written] = await shards(33)(again);
    expect(index.shards[0]?.sha256).toBe(written?.sha256);
    expect((await readFile(join(path, 'shard-p0-d0.safetensors'))).length).toBeGreaterThan(1_600_000);
    await store.prune({ last: 2, every: 0 });
    const manager = await jetstreamManager(connection);
    const { state } = await manager.streams.info(`plexus-${job}-checkpoints`, { subjects_filter: '>' });
    const attempts = Object.keys(state.subjects ?? {}).filter((name) => name.includes('.data.'));
    expect(new Set(attempts.map((name) => name.split('.').slice(5, 7).join('.'))).size).toBe(1);
  });

  it('are refused where there is no room for them, and the one before stays', async () => {
    const { store, at, job } = await started();
    await store.save(info(3), shards(3));
    const manager = await jetstreamManager(connection);
    await manager.streams.update(`plexus-${job}-checkpoints`, { max_bytes: 2_500_000 });
    await expect(store.save(info(5), shards(5))).rejects.toThrow(/did not store part .*maximum bytes exceeded/);
    const { path } = await fetchRun({ ...at, dir: join(root, `fifth-${job}`) });
    expect(await readdir(join(path, 'checkpoints'))).toEqual(['step-3']);
  });

  it('outlive a server that is killed and started again while they are sent', async () => {
    const { store, at, job } = await started();
    await store.save(info(3), shards(3));
    let ended: Promise<void> | null = null;
    await store.save(info(5), async (folder) => {
      const written = await shards(5)(folder);
      ended = server.stop('kill').then(async () => {
        server = await startNatsServer({ storeDir: join(root, 'js'), port: server.port });
      });
      return written;
    });
    await ended;
    const { path } = await fetchRun({ ...at, dir: join(root, `sixth-${job}`) });
    expect(await readdir(join(path, 'checkpoints'))).toEqual(['step-5']);
  });
});

describe('a NATS server', () => {
  it('without JetStream is named', async () => {
    const plain = await startNatsServer();
    const other = await connectNats({ servers: plain.url });
    try {
      const folder = machine('plain', 'r');
      await expect(natsStore({ connection: other, job: 'j', run: 'r', folder, deadlineMs: 2000 })).rejects.toThrow(
        /has no JetStream.*start it with -js/,
      );
    } finally {
      await other.close();
      await plain.stop('kill');
    }
  });

  it('may allow small messages only', async () => {
    const configFile = join(root, 'small.conf');
    writeFileSync(configFile, 'max_payload: 65536\n');
    const small = await startNatsServer({ storeDir: join(root, 'small'), configFile });
    const other = await connectNats({ servers: small.url });
    try {
      const at = { connection: other, job: 'j', run: 'r' };
      const store = await natsStore({ ...at, folder: machine('small-1', 'r') });
      await store.save(info(3), shards(3));
      const there = await natsStore({ ...at, folder: machine('small-2', 'r') });
      expect((await there.newest()).index.step).toBe(3);
    } finally {
      await other.close();
      await small.stop('kill');
    }
  });
});
