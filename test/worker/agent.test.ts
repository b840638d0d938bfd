import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { LinkKind, NatsServer } from '../../src/comm/index.ts';
import { createEngine, type Engine } from '../../src/engine/index.ts';
import { prepareModel } from '../../src/modules/index.ts';
import {
  type AgentReply,
  CLUSTER_PROTOCOL_VERSION,
  clusterKeys,
  type InProcessResult,
  meanOverMicrobatches,
  modelDigest,
  PLEXUS_VERSION,
  runInProcess,
  type StepReport,
} from '../../src/worker/index.ts';
import { type Begun, jetStream, Script, type Work, Workshop } from './agent-script.ts';

let server: NatsServer;
let stop: () => Promise<void>;
let shop: Workshop;
let engine: Engine;
let serial: InProcessResult;
let script: Script;

beforeAll(async () => {
  ({ server, stop } = await jetStream());
  shop = await Workshop.open();
  engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
  serial = await runInProcess((await shop.work({})).jobs, 6, { overrides: { engine } });
}, 30_000);
afterAll(async () => {
  await engine.dispose();
  await shop.close();
  await stop();
});
beforeEach(async () => {
  script = await Script.open(server.url);
});
afterEach(() => script.close());

const lossesOf = (reports: readonly (readonly StepReport[])[], work: Work) =>
  reports.map((step) => meanOverMicrobatches(step, 'loss', work.jobs[0]!.train.microbatches));

/** The parameters of all ranks as a snapshot has them. */
async function parametersOf(begun: Begun): Promise<Record<string, number[]>> {
  const found: Record<string, number[]> = {};
  for (const [rank, { agent }] of begun.seats.entries())
    for (const [name, data] of await script.snapshot(begun.generation, rank, agent))
      if (name.startsWith('param/')) found[name.slice('param/'.length)] = [...data];
  return found;
}

const serialParameters = () =>
  Object.fromEntries(Object.entries(serial.parameters).map(([path, { data }]) => [path, [...(data as Float32Array)]]));

const two = (a: string, b: string) => [
  { agent: a, slot: 0 },
  { agent: b, slot: 0 },
];

describe('agents', () => {
  it.each<LinkKind>(['tcp', 'nats', 'unix', 'host'])('train over %s links to the bits of one process', async (kind) => {
    const [a, b] = await Promise.all([script.agent('a'), script.agent('b')]);
    const work = await shop.work({ data: 2, expert: 2 });
    const begun = await script.begin(4, two(a.id, b.id), work, () => kind);
    const losses = lossesOf(await script.run(begun, 6), work);
    expect(losses).toEqual(serial.losses);
    expect(await parametersOf(begun)).toEqual(serialParameters());
    expect(await script.member(a.id)).toMatchObject({ generation: 4, ranks: [0], version: PLEXUS_VERSION, slots: 1 });
  });

  it('go on in the next generation with one agent fewer, from snapshots and copies of them, and compile no layer anew', async () => {
    const [a, b] = await Promise.all([script.agent('a', { slots: 2 }), script.agent('b')]);
    const seats = two(a.id, b.id);
    const narrow = await shop.work({ data: 2, expert: 2 });
    // Everything that rank 1 holds is copied to the other agent.
    const begun = await script.begin(1, seats, narrow, () => 'tcp', {
      replicate: (rank) => (rank === 1 ? { to: a.id, names: narrow.names } : null),
    });
    const before = lossesOf(await script.run(begun, 3), narrow);
    await script.kept(begun, 3);
    await script.until('the copy is there', () => script.offers(a.id, `replica-${b.id}-1-1-3`));
    const told = await script.event((event) => event.type === 'snapshots' && event.agent === a.id);
    expect(told).toMatchObject({ snapshots: [{ rank: 1, tensors: expect.any(Array) }] });
    b.leave();
    await script.event((event) => event.type === 'leaving' && event.agent === b.id);
    const single = await shop.work({});
    const next = await script.begin(2, [{ agent: a.id, slot: 0 }], single, () => 'tcp', { restore: { step: 3 } });
    const first = await script.worker(1, 0, 'ready');
    const ready = await script.worker(2, 0, 'ready');
    expect(ready.step).toBe(3);
    // Updates of the optimizer are of other shapes, since its state was cut in two before; layers are those of before.
    expect(ready.compile.executables).toBeLessThan(first.compile.executables / 2);
    const after = lossesOf(await script.run(next, 6), single);
    expect([...before, ...after]).toEqual(serial.losses);
    expect(await parametersOf(next)).toEqual(serialParameters());
    await script.accepted(b.id, 2, { type: 'release', reason: 'not needed any more' });
    await b.done;
    expect(await script.member(b.id)).toBeNull();
  });

  it('link the ranks of one process directly, and grow by an agent that fetches what it needs', async () => {
    const a = await script.agent('a', { slots: 2 });
    const work = await shop.work({ data: 2, expert: 2 });
    const inOne = [
      { agent: a.id, slot: 0 },
      { agent: a.id, slot: 1 },
    ];
    const begun = await script.begin(1, inOne, work, () => 'local');
    const before = lossesOf(await script.run(begun, 2), work);
    const b = await script.agent('b');
    await script.kept(begun, 2);
    await script.begin(2, inOne, work, () => 'local', { restore: { step: 2 }, also: [b.id] });
    await Promise.all([script.worker(2, 0, 'ready'), script.worker(2, 1, 'ready')]);
    await script.accepted(b.id, 2, { type: 'warm', jobs: work.remote });
    await script.until('it is warm', () => b.lines.some((line) => line.includes('has compiled what it needs')));
    // (Nobody has taken a snapshot since: what they began with is still there.)
    const grown = await script.begin(3, two(b.id, a.id), work, () => 'unix', { restore: { step: 2 } });
    const after = lossesOf(await script.run(grown, 6), work);
    expect([...before, ...after]).toEqual(serial.losses);
    expect(await parametersOf(grown)).toEqual(serialParameters());
    // It had compiled everything while it was spare.
    const { phases } = await script.worker(3, 0, 'ready');
    expect(phases.compile).toBeLessThan((await script.worker(1, 0, 'ready')).phases.compile / 4);
  });

  it('answer a request that comes again with the same answer, and refuse older terms, generations and other versions', async () => {
    const a = await script.agent('a');
    const prepare = {
      type: 'prepare',
      version: PLEXUS_VERSION,
      protocol: CLUSTER_PROTOCOL_VERSION,
      slots: [0],
      ranks: [0],
      secret: randomBytes(16).toString('hex'),
      world: 1,
    } as const;
    const first = (await script.ask(a.id, 5, { ...prepare, seq: 900 })) as Extract<AgentReply, { type: 'prepared' }>;
    expect(await script.ask(a.id, 5, { ...prepare, seq: 900 })).toEqual(first);
    expect(first.addresses[0]).toMatchObject({ slot: 0, tcp: { port: expect.any(Number) } });
    expect(await script.ask(a.id, 4, prepare)).toMatchObject({ ok: false, stale: true });
    expect(await script.ask(a.id, 4, { type: 'command', rank: 0, command: { type: 'stop' } })).toMatchObject({
      ok: false,
      stale: true,
      message: expect.stringContaining('generation 5'),
    });
    expect(await script.ask(a.id, 5, { ...prepare, term: 0 })).toMatchObject({ ok: false, stale: true });
    expect(await script.ask(a.id, 6, { ...prepare, version: '0.0.9' })).toMatchObject({
      ok: false,
      stale: false,
      message: expect.stringMatching(new RegExp(`plexus ${PLEXUS_VERSION}.*plexus 0\\.0\\.9`)),
    });
    expect(await script.ask(a.id, 5, { type: 'command', rank: 0, command: { type: 'stop' } })).toMatchObject({
      ok: false,
      stale: false,
      message: expect.stringContaining('rank 0 does not run here'),
    });
    const { port } = first.addresses[0]!.tcp!;
    const probed = await script.ask(a.id, 5, {
      type: 'probe',
      addresses: [
        { host: '127.0.0.1', port },
        { host: '127.0.0.1', port: 1 },
      ],
    });
    expect(probed).toEqual({ ok: true, type: 'probed', reachable: [true, false] });
  });

  it('refuse data that is not the coordinator’s, with both digests', async () => {
    const a = await script.agent('a');
    const work = await shop.work({});
    const other = 'f'.repeat(64);
    await script.begin(1, [{ agent: a.id, slot: 0 }], work, () => 'tcp', {
      change: (job) => ({ ...job, dataSha256: other }),
    });
    const { report } = await script.worker(1, 0, 'failed');
    expect(report).toMatchObject({ name: 'AgentRefusal', secondary: false });
    expect(report.message).toContain(other);
    expect(report.message).toContain(work.remote[0]!.dataSha256);
  });

  it('compile a module file of their own disk, and replace a thread that does not let go', async () => {
    const file = join(shop.folder, 'stuck.ts');
    const stuck = join(shop.folder, 'stuck.flag');
    await writeFile(
      file,
      `import { writeFileSync } from 'node:fs';
       import { zoo } from 'plexus';
       export async function model(args, info) {
         if (args.stuck) for (writeFileSync(args.stuck, ''); ; ) {}
         const entry = zoo['transformer-lm'];
         return (await entry.build(entry.schema.parse({ layers: 2, dim: 8, heads: 2, moe: { experts: 2, top_k: 1, every: 2 } }), info)).model;
       }`,
    );
    const resolved = await prepareModel({ file, args: {} }, { baseDir: '/', outDir: shop.folder });
    const modelSha256 = await modelDigest(resolved);
    const a = await script.agent('a', { patience: { letGoMs: 300, forceMs: 1000 } });
    const work = await shop.work({});
    const seats = [{ agent: a.id, slot: 0 }];
    await script.begin(1, seats, work, () => 'tcp', {
      change: (job) => ({ ...job, model: { ...resolved, args: { stuck } }, modelSha256 }),
    });
    await script.until('the thread is stuck', () => existsSync(stuck));
    const begun = await script.begin(2, seats, work, () => 'tcp', {
      change: (job) => ({ ...job, model: resolved, modelSha256 }),
    });
    expect(lossesOf(await script.run(begun, 2), work)).toEqual(serial.losses.slice(0, 2));
    expect(a.lines.join('\n')).toContain('a new one takes its place');

    await script.begin(3, seats, work, () => 'tcp', {
      change: (job) => ({ ...job, model: resolved, modelSha256: 'f'.repeat(64) }),
    });
    const { report } = await script.worker(3, 0, 'failed');
    expect(report.message).toContain(`the model file ${file} has other content here (${modelSha256})`);
    await script.begin(4, seats, work, () => 'tcp', {
      change: (job) => ({ ...job, model: { ...resolved, file: '/nowhere/model.ts' }, modelSha256 }),
    });
    expect((await script.worker(4, 0, 'failed')).report.message).toContain('/nowhere/model.ts does not exist');
  });

  it('tell at once when a link breaks, and be spare again when the job went on without them', async () => {
    const [a, b] = await Promise.all([script.agent('a'), script.agent('b')]);
    const work = await shop.work({ data: 2, expert: 2 });
    const begun = await script.begin(1, two(a.id, b.id), work, () => 'tcp');
    await script.run(begun, 1);
    await script.kv.put(
      clusterKeys.generation,
      JSON.stringify({
        generation: 2,
        mesh: {},
        members: [{ agent: a.id, slot: 0 }],
        links: [],
        fromStep: 0,
        reason: 'test',
      }),
    );
    await script.until('it is spare', () =>
      b.lines.some((line) => line.includes('is spare again: generation 2 began without it')),
    );
    // What is given up says good-bye: nobody is suspected, but the rank cannot go on.
    await script.accepted(a.id, 1, { type: 'command', rank: 0, command: { type: 'run', until: 2 } });
    const { report } = await script.failed(1, 0);
    expect(report).toMatchObject({ name: 'CommClosed', secondary: true });
    expect(script.events.some(({ type }) => type === 'link-lost')).toBe(false);
    expect(await script.ask(b.id, 1, { type: 'debug' })).toEqual({ ok: true, type: 'debug', ranks: [] });
    const state = await script.ask(a.id, 1, { type: 'debug' });
    expect(state).toMatchObject({ ok: true, ranks: [{ rank: 0, generation: 1 }] });
  });

  it('leave nothing: a spare agent ends at once, one that is told to stop ends, `once` ends with the job', async () => {
    const [spare, stopped, once] = await Promise.all([
      script.agent('spare'),
      script.agent('stopped'),
      script.agent('once', { once: true }),
    ]);
    spare.leave();
    await spare.done;
    expect(await script.member(spare.id)).toBeNull();
    await script.accepted(stopped.id, 0, { type: 'stop', reason: 'plexus stop' });
    await stopped.done;
    await script.accepted(once.id, 0, { type: 'release', reason: 'not needed' });
    const work = await shop.work({});
    const begun = await script.begin(1, [{ agent: once.id, slot: 0 }], work, () => 'tcp');
    await script.run(begun, 1);
    await script.accepted(once.id, 1, { type: 'command', rank: 0, command: { type: 'stop' } });
    await script.worker(1, 0, 'stopped');
    await script.accepted(once.id, 1, { type: 'release', reason: 'the run is complete' });
    await once.done;
    expect(await script.member(once.id)).toBeNull();
  });
});

it('a server without JetStream is refused, saying what to start', async () => {
  const { startNatsServer } = await import('../../src/comm/index.ts');
  const { runAgent } = await import('../../src/worker/index.ts');
  const plain = await startNatsServer();
  try {
    await expect(runAgent({ nats: { servers: plain.url }, job: 'x' })).rejects.toThrow(/JetStream.*nats-server -js/);
  } finally {
    await plain.stop('kill');
  }
  await expect(runAgent({ nats: { servers: plain.url }, job: 'x' })).rejects.toThrow(/refused.*plexus up/s);
  await expect(runAgent({ nats: { servers: plain.url }, job: 'a b' })).rejects.toThrow(/the job "a b"/);
});
