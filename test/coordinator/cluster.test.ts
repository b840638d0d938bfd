import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type NatsServer, startNatsServer } from '../../src/comm/index.ts';
import {
  clusterStatus,
  complete,
  debugJob,
  type RunEvent,
  RunFailure,
  type RunSummary,
  readMetrics,
  stopJob,
  train,
  trainCluster,
} from '../../src/coordinator/index.ts';
import '../../src/schedulers/index.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-cluster-'));
let server: NatsServer;
beforeAll(async () => {
  const words = ['the', 'whale', 'sea', 'ship', 'white', 'old', 'captain', 'sailed', 'and', 'sank'];
  const text = Array.from({ length: 1500 }, (_, i) => words[(i * i * 7 + i * 3) % words.length]).join(' ');
  writeFileSync(join(root, 'corpus.txt'), text);
  server = await startNatsServer({ storeDir: join(root, 'js') });
});
afterAll(async () => {
  await server?.stop('kill');
  rmSync(root, { recursive: true, force: true });
});

function config(id: string, more: object = {}, parallel: object = { data: 2, expert: 2 }): Record<string, unknown> {
  return {
    name: 'tiny',
    seed: 3,
    model: {
      name: 'transformer-lm',
      args: { layers: 2, dim: 16, heads: 2, moe: { experts: 2, top_k: 1, hidden: 16 } },
    },
    data: { name: 'text', path: join(root, 'corpus.txt'), context: 12, tokenizer: { kind: 'char' } },
    batch: { global: 8, micro: 2 },
    optim: { name: 'adamw', lr: 0.01, clip_norm: 1 },
    engine: { threads: 1 },
    run: { dir: join(root, 'runs'), id },
    parallel,
    ...more,
    train: { steps: 6, ...(more as { train?: object }).train },
  };
}

/** Agents in processes of their own; all are killed when the test is over. */
const processes: ChildProcess[] = [];
afterEach(() => {
  for (const child of processes.splice(0)) child.kill('SIGKILL');
});

const fixtures = join(dirname(fileURLToPath(import.meta.url)), 'fixtures');

function startAgent(job: string, name: string, more: object = {}): ChildProcess {
  const options = { nats: { servers: server.url }, job, name, leaseMs: 2000, ...more };
  const child = spawn(process.execPath, [join(fixtures, 'agent.mjs'), JSON.stringify(options)], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  child.stderr?.on('data', (text: Buffer) => process.env.VERBOSE && console.log(String(text)));
  processes.push(child);
  return child;
}

function startAgents(job: string, names: readonly string[]): Map<string, ChildProcess> {
  return new Map(names.map((name) => [name, startAgent(job, name)]));
}

/** The name that an agent was given, without what makes its id unique. */
const nameOf = (id = ''): string => id.replace(/-[0-9a-f]+$/, '');

function signalled() {
  let resolve = (): void => undefined;
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

interface Outcome {
  readonly events: RunEvent[];
  readonly summary: RunSummary;
  readonly dir: string;
}

/** Trains on agents; `on` is told of each event as it comes. */
async function cluster(
  id: string,
  job: string,
  options: {
    more?: object;
    parallel?: object;
    overrides?: string[];
    on?: (event: RunEvent) => void | Promise<void>;
    standby?: boolean;
    signal?: AbortSignal;
    minWorkers?: number;
  } = {},
): Promise<Outcome> {
  const events: RunEvent[] = [];
  const { more, parallel, on, ...rest } = options;
  const run = { nats: { servers: server.url }, job, ...rest };
  for await (const event of trainCluster(config(id, more, parallel), run)) {
    events.push(event);
    if (process.env.VERBOSE && event.type !== 'step')
      console.log(performance.now().toFixed(0), JSON.stringify(event).slice(0, 260));
    await on?.(event);
  }
  const [finished] = ofType(events, 'finished');
  return { events, summary: finished?.summary as RunSummary, dir: finished?.dir as string };
}

const ofType = <T extends RunEvent['type']>(events: readonly RunEvent[], type: T) =>
  events.filter((event): event is Extract<RunEvent, { type: T }> => event.type === type);

/** The run of one worker in this process: what every other must equal. */
const serialRuns = new Map<number, Promise<RunSummary>>();
function serial(steps: number): Promise<RunSummary> {
  const known =
    serialRuns.get(steps) ??
    complete(train(config(`serial-${steps}`, { train: { steps } }, {}))).then(({ summary }) => summary as RunSummary);
  serialRuns.set(steps, known);
  return known;
}

async function expectSame({ summary, dir }: Outcome, steps: number): Promise<void> {
  const expected = await serial(steps);
  expect(summary.weights_sha256).toBe(expected.weights_sha256);
  expect(summary.losses_sha256).toBe(expected.losses_sha256);
  expect(summary.val_loss).toBe(expected.val_loss);
  const lines = await readMetrics(join(dir, 'metrics.jsonl'));
  expect(lines.map(({ step }) => step)).toEqual(Array.from({ length: steps }, (_, i) => i + 1));
}

describe('trainCluster', () => {
  it('gives the serial bits over every kind of link, run after run on the same workers', async () => {
    startAgents('bits', ['a', 'b', 'c']);
    for (const data of ['host', 'tcp', 'unix', 'nats']) {
      const done = await cluster(`bits-${data}`, 'bits', { parallel: { data: 3 }, overrides: [`comm.data=${data}`] });
      await expectSame(done, 6);
      const [generation] = ofType(done.events, 'generation');
      expect(new Set(generation?.links.flat())).toEqual(new Set(['-', data]));
    }
  });

  it('warns where processors of the workers do not round alike', async () => {
    startAgent('kinds', 'a', { cpuinfo: 'flags\t\t: fpu avx2 fma' });
    startAgent('kinds', 'b', { cpuinfo: 'flags\t\t: fpu avx2 fma avx512f avx512_vnni' });
    const kinds = /different kinds \(linux \w+ with avx2 avx512f: b-\w+; linux \w+ with avx2: a-\w+\)/;
    const warnings = async (id: string, more: object): Promise<string[]> =>
      ofType((await cluster(id, 'kinds', { more })).events, 'warning').map(({ message }) => message);
    expect(await warnings('kinds', {})).toContainEqual(expect.stringMatching(kinds));
    expect(await warnings('kinds-fast', { numerics: 'fast' })).not.toContainEqual(expect.stringMatching(kinds));
  });

  it('goes on when a worker is killed, with a spare in its place', async () => {
    const agents = startAgents('spare', ['a', 'b', 'c']);
    let victim = '';
    const done = await cluster('spare', 'spare', {
      more: { train: { steps: 40 } },
      on: (event) => {
        if (event.type === 'generation') victim ||= nameOf(event.members[1]?.agent);
        if (event.type === 'step' && event.step === 10) agents.get(victim)?.kill('SIGKILL');
      },
    });
    await expectSame(done, 40);
    const [lost] = ofType(done.events, 'lost');
    expect(lost?.ranks).toEqual([1]);
    expect(nameOf(lost?.agent)).toBe(victim);
    const generations = ofType(done.events, 'generation');
    expect(generations).toHaveLength(2);
    expect(generations[1]?.mesh).toEqual(generations[0]?.mesh);
    // The survivor stays where it is, and what only the lost one held came from its copy in memory.
    expect(generations[1]?.members[0]).toEqual(generations[0]?.members[0]);
    expect(generations[1]?.fromStep).toBeGreaterThanOrEqual(9);
    expect(done.summary.recoveries).toBe(1);
    expect(ofType(done.events, 'recovered')).toHaveLength(1);
  });

  it('shrinks when nobody takes the place, and grows when somebody comes', async () => {
    const agents = startAgents('grow', ['a', 'b']);
    let generations = 0;
    const done = await cluster('grow', 'grow', {
      more: { train: { steps: 60 } },
      on: async (event) => {
        if (event.type === 'generation') generations += 1;
        if (event.type !== 'step') return;
        if (event.step === 5) agents.get('a')?.kill('SIGKILL');
        if (event.step === 20) startAgent('grow', 'c');
        // The run must not be over before the new one has come.
        if (event.step > 20 && generations < 3) await sleep(150);
      },
    });
    await expectSame(done, 60);
    const meshes = ofType(done.events, 'generation').map(({ mesh }) => mesh);
    expect(meshes).toEqual([
      { data: 2, pipeline: 1, expert: 2 },
      { data: 1, pipeline: 1, expert: 1 },
      { data: 2, pipeline: 1, expert: 2 },
    ]);
  });

  it('lets a worker leave in good order', async () => {
    const agents = startAgents('leave', ['a', 'b', 'c']);
    let leaver = '';
    const done = await cluster('leave', 'leave', {
      more: { train: { steps: 40 } },
      on: (event) => {
        if (event.type === 'generation') leaver ||= nameOf(event.members[0]?.agent);
        if (event.type === 'step' && event.step === 10) agents.get(leaver)?.kill('SIGTERM');
      },
    });
    await expectSame(done, 40);
    expect(ofType(done.events, 'lost')).toEqual([]);
    const [, second] = ofType(done.events, 'generation');
    expect(second?.reason).toMatch(/leaves/);
    expect(done.summary.recoveries).toBe(0);
  });

  it('survives its coordinator: another takes the run over, with all that is in memory', async () => {
    startAgents('heir', ['a', 'b']);
    const more = { train: { steps: 60 }, comm: { lease_s: 1 } };
    const options = { nats: { servers: server.url }, job: 'heir', config: config('heir', more) };
    const first = spawn(process.execPath, [join(fixtures, 'coordinator.mjs'), JSON.stringify(options)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    processes.push(first);
    const ended = new Promise((resolve) => first.once('exit', resolve));
    for await (const line of createInterface({ input: first.stdout }))
      if ((JSON.parse(line) as RunEvent).type === 'step' && (JSON.parse(line) as { step: number }).step === 10) break;
    first.kill('SIGKILL');
    await ended;
    const done = await cluster('heir', 'heir', { more });
    await expectSame(done, 60);
    const [generation] = ofType(done.events, 'generation');
    expect(generation?.generation).toBe(2);
    // There is no checkpoint yet: what it goes on from was in the workers' memory.
    expect(generation?.fromStep).toBeGreaterThanOrEqual(8);
    expect(ofType(done.events, 'started')[0]?.step).toBe(generation?.fromStep);
  });

  it('refuses a second coordinator, unless it stands by', async () => {
    startAgents('two', ['a', 'b']);
    const begun = signalled();
    const refused = signalled();
    const more = { train: { steps: 20 }, comm: { lease_s: 1 } };
    const first = cluster('two', 'two', {
      more,
      on: async (event) => {
        if (event.type !== 'step' || event.step !== 5) return;
        begun.resolve();
        await refused.promise;
      },
    });
    await begun.promise;
    await expect(cluster('other', 'two', { more })).rejects.toThrow(
      new RegExp(`job 'two' is led by the coordinator on \\S+ \\(pid ${process.pid}, since \\d{4}-.*--standby`),
    );
    const second = cluster('two', 'two', { more, standby: true });
    refused.resolve();
    const [leader, standby] = await Promise.all([first, second]);
    await expectSame(leader, 20);
    expect(standby.summary).toEqual(leader.summary);
  });

  it('ends the run when the program itself fails, and names rank, agent and host', async () => {
    startAgents('nan', ['a', 'b']);
    const events: RunEvent[] = [];
    const failing = cluster('nan', 'nan', {
      more: { optim: { name: 'sgd', lr: 1e30 } },
      on: (event) => void events.push(event),
    });
    await expect(failing).rejects.toBeInstanceOf(RunFailure);
    expect(ofType(events, 'generation')).toHaveLength(1);
    expect(ofType(events, 'failed')).toHaveLength(1);
  });

  it('says who is there when workers are missing', async () => {
    startAgent('few', 'a');
    // (The run waits for others for 3 s: less than a process takes to start where much else is going on.)
    const place = { nats: { servers: server.url }, job: 'few' };
    const members = () =>
      clusterStatus(place).then(
        (status) => status.members.length,
        () => 0, // (There is no such job before it has come.)
      );
    await expect.poll(members, { timeout: 30_000 }).toBe(1);
    const events: RunEvent[] = [];
    const waiting = cluster('few', 'few', { overrides: ['recovery.wait_s=3'], on: (event) => void events.push(event) });
    await expect(waiting).rejects.toThrow(
      /2 workers are needed, but after 3 s .* there is 1:\n {2}a-\w+ on \S+, 1 slot/,
    );
    expect(ofType(events, 'waiting').at(-1)).toMatchObject({ have: 1, need: 2 });
  });

  it('shows a job, what its ranks do, and ends it', async () => {
    startAgents('shown', ['a', 'b']);
    const place = { nats: { servers: server.url }, job: 'shown' };
    let stopping: Promise<unknown> | null = null;
    const done = await cluster('shown', 'shown', {
      more: { train: { steps: 2000 } },
      on: async (event) => {
        if (event.type !== 'step' || event.step < 5 || stopping) return;
        const status = await clusterStatus(place);
        expect(status.leader?.pid).toBe(process.pid);
        expect(status.record).toMatchObject({ runId: 'shown', status: 'running' });
        expect(status.generation?.members).toHaveLength(2);
        expect(status.members.map(({ id }) => nameOf(id))).toEqual(['a', 'b']);
        const { ranks, silent } = await debugJob(place);
        // While a worker that came late is let in, those of the generation before answer too.
        if (event.step < 1000 && new Set(ranks.map(({ generation }) => generation)).size > 1) return;
        expect(ranks.map(({ rank }) => rank)).toEqual([0, 1]);
        expect(silent).toEqual([]);
        stopping = stopJob(place);
      },
    });
    expect(await stopping).toEqual({ run: 'shown', workers: 0 });
    const finished = ofType(done.events, 'finished')[0];
    expect(finished?.status).toBe('interrupted');
    expect(finished?.checkpoint).toMatch(/step-\d+$/);
    expect((await clusterStatus(place)).record?.status).toBe('interrupted');
  });

  it('goes on when the NATS server is killed and started again', async () => {
    const own = await startNatsServer({ storeDir: join(root, 'restarted') });
    let again: NatsServer | null = null;
    const job = 'restart';
    const nats = { servers: own.url };
    for (const name of ['a', 'b']) startAgent(job, name, { nats });
    try {
      const events: RunEvent[] = [];
      for await (const event of trainCluster(config('restart', { train: { steps: 40 } }), { nats, job })) {
        events.push(event);
        if (event.type !== 'step' || event.step !== 10) continue;
        await own.stop('kill');
        await sleep(1000);
        again = await startNatsServer({ storeDir: join(root, 'restarted'), port: own.port });
      }
      const [finished] = ofType(events, 'finished');
      await expectSame({ events, summary: finished?.summary as RunSummary, dir: finished?.dir as string }, 40);
      expect(ofType(events, 'lost')).toEqual([]);
    } finally {
      await again?.stop('kill');
    }
  });
});
