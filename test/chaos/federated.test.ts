import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { remade, replayed } from './federated-replay.ts';
import { CLIENTS, World } from './federated-world.ts';

const config = (over: { scheduler?: string; steps: number; clients?: number; extra?: string }) => `
name: fed
seed: 1
model: { name: mlp, args: { hidden: [16] } }
data: { name: mnist, validation: 0, limit: 2000 }
optim: { name: sgd, lr: 0.05, momentum: 0 }
train: { steps: ${over.steps}, eval_split: test, checkpoint_every: 1 }
comm: { lease_s: 1.5 }
scheduler:
  name: ${over.scheduler ?? 'fedavg'}
  clients: ${over.clients ?? CLIENTS}
  cohort: ${over.clients ?? CLIENTS}
  local_batch: 10
  ${over.extra ?? ''}
`;

const worlds: World[] = [];
afterEach(async () => {
  for (const world of worlds.splice(0)) await world.close();
});
const start = async (): Promise<World> => {
  const world = await World.start();
  worlds.push(world);
  return world;
};

describe('five clients in processes of their own', () => {
  it('one killed, five that lie: the others are aggregated to the bits of a simulation, and all are named', async () => {
    const on = await start();
    const file = join(on.folder, 'config.yaml');
    const liars = ['nan', 'huge', 'round', 'short', 'silent'];
    const all = { clients: 4 + liars.length };
    writeFileSync(file, config({ ...all, steps: 12, extra: 'quorum: 3\n  max_norm: 100\n  round_deadline_s: 6' }));
    for (const part of [1, 2, 3]) on.client(part);
    const victim = on.client(4);
    const lying = new Map(liars.map((kind) => [kind, on.liar(kind)]));
    const server = on.train(file, '--nats', on.url, '--min-clients', `${all.clients}`);
    await on.processes.until('all of them', 60_000, () => on.joined === all.clients);
    const began = performance.now();
    await on.reached(1);
    // The deadline, and not much more.
    expect(performance.now() - began).toBeLessThan(12_000);
    await lying.get('silent')?.kill();
    await on.reached(2);
    await victim.kill();
    const { code } = await on.processes.exitOf(server, 60_000);
    expect(code, on.processes.describe()).toBe(0);
    const [run] = on.runs() as [string];
    const lines = on.lines(run);
    expect(lines.map(({ counted }) => counted)).toEqual(Array(12).fill(true));
    const large = {
      client: 5,
      name: 'liar-huge',
      reason: expect.stringMatching(/^the norm of its update is 1\.128e\+8, /),
    };
    expect(lines[0]?.dropped_clients).toEqual([
      { client: 4, name: 'liar-nan', reason: 'number 0 of its update is NaN' },
      large,
      {
        client: 6,
        name: 'liar-round',
        reason: 'it answers with an update of round 1, version 1; round 0, version 1 was asked for',
      },
      { client: 7, name: 'liar-short', reason: 'its update has 12729 numbers, 12730 were expected' },
      { client: 8, name: 'liar-silent', reason: 'no answer within the 6 s of a round' },
    ]);
    // Too large is no lie at once, but it is the third time.
    const tooLarge = lines.filter(({ dropped_clients: each }) => each.some(({ client }) => client === 5));
    expect(tooLarge.map(({ step }) => step)).toEqual([1, 2, 3]);
    expect(lines.at(-1)?.quarantined).toBe(4);
    const about = on.events.filter(({ type }) => type === 'client').map(({ client, what }) => `${client} ${what}`);
    for (const kind of ['nan', 'huge', 'round', 'short']) expect(about).toContain(`liar-${kind} quarantined`);
    expect(about).toContain('liar-silent gone');
    expect(about.some((text) => /part-4 gone/.test(text))).toBe(true);
    // What was aggregated is what a simulation computes of the same clients in the same rounds.
    expect(on.weights(run)).toBe(await replayed(lines, run));
  }, 120_000);

  it('one killed and started again, under secure aggregation: sums have the bits of a simulation', async () => {
    const on = await start();
    const file = join(on.folder, 'config.yaml');
    // Rounds of some length, so that it can be back before they are over.
    const extra = 'quorum: 3\n  local_epochs: 15\n  round_deadline_s: 20\n  secure_aggregation: { name: secagg }';
    writeFileSync(file, config({ steps: 30, extra }));
    const allow = join(on.folder, 'allow.yaml');
    writeFileSync(allow, 'secure_aggregation: true\nmin_neighbours: 3\n');
    const clients = Array.from({ length: CLIENTS }, (_, i) => on.client(i + 1, '--allow', allow));
    const server = on.train(file, '--nats', on.url, '--min-clients', '5');
    await on.reached(3);
    await clients[3]?.kill();
    await on.processes.until('the server misses it', 30_000, () =>
      on.events.some(({ type, what }) => type === 'client' && what === 'gone'),
    );
    on.client(4, '--allow', allow);
    const { code } = await on.processes.exitOf(server, 60_000);
    expect(code, on.processes.describe()).toBe(0);
    const [run] = on.runs() as [string];
    const lines = on.lines(run);
    expect(lines.map(({ counted }) => counted)).toEqual(Array(30).fill(true));
    // It was missed in a round, was not asked in others, and has taken part again.
    const dropped = lines.filter(({ dropped_clients: each }) => each.length > 0);
    expect(dropped.map(({ dropped_clients: each }) => each.map(({ client }) => client))).toEqual([[3]]);
    const cohorts = lines.map(({ cohort = [] }) => cohort.join(''));
    expect(new Set(cohorts)).toEqual(new Set(['01234', '0124']));
    expect(cohorts.lastIndexOf('01234')).toBeGreaterThan(cohorts.indexOf('0124'));
    expect(on.weights(run)).toBe(await replayed(lines, run));
  }, 120_000);

  it('a client and the server killed: both go on, to the bits of the run that nothing happened to', async () => {
    const on = await start();
    const file = join(on.folder, 'config.yaml');
    // All must answer, so that it is the simulation's run; what clients keep (control variates, what updates left out) must survive.
    const extra = [
      `quorum: ${CLIENTS}`,
      'round_deadline_s: 20',
      'compression: { name: top-k, ratio: 0.1, values: int8, down: int8 }',
    ].join('\n  ');
    writeFileSync(file, config({ scheduler: 'scaffold', steps: 10, extra }));
    const clients = Array.from({ length: CLIENTS }, (_, i) => on.client(i + 1));
    const first = on.train(file, '--nats', on.url);
    await on.reached(2);
    await clients[1]?.kill();
    on.client(2);
    await on.reached(4);
    await first.kill();
    const [run] = on.runs() as [string];
    on.events.length = 0;
    const second = on.train('--resume', run, '--nats', on.url);
    const { code } = await on.processes.exitOf(second, 60_000);
    expect(code, on.processes.describe()).toBe(0);
    const alone = on.train(file);
    expect((await on.processes.exitOf(alone, 60_000)).code).toBe(0);
    const [, simulated] = on.runs() as [string, string];
    expect(on.lines(run).map(({ step }) => step)).toEqual(Array.from({ length: 10 }, (_, i) => i + 1));
    expect(on.weights(run)).toBe(on.weights(simulated));
    // What really travelled is what a simulation says, in rounds in which nobody was asked twice.
    const bytes = (of: string) => on.lines(of).map(({ bytes_down, bytes_up }) => `${bytes_down} ${bytes_up}`);
    expect(bytes(run).at(-1)).toBe(bytes(simulated).at(-1));
    // Real clients take real time.
    expect(on.lines(run).some((line) => 'simulated_s' in line)).toBe(false);
    expect(on.lines(simulated).every((line) => 'simulated_s' in line)).toBe(true);
  }, 120_000);

  it('the NATS server killed in the middle of rounds: nobody counts as gone, and nothing is asked or computed anew', async () => {
    const on = await start();
    const file = join(on.folder, 'config.yaml');
    // All must answer; what clients keep would show a fit that was done twice.
    const extra = `quorum: ${CLIENTS}\n  local_epochs: 15\n  round_deadline_s: 30`;
    writeFileSync(file, config({ scheduler: 'scaffold', steps: 8, extra }));
    const clients = Array.from({ length: CLIENTS }, (_, i) => on.client(i + 1));
    const run = on.train(file, '--nats', on.url);
    // Away for less than a lease, and for more than one.
    for (const [step, away] of [
      [2, 500],
      [4, 3500],
    ] as const) {
      await on.reached(step);
      await on.servers.kill();
      await delay(away);
      await on.servers.restart();
    }
    const { code } = await on.processes.exitOf(run, 60_000);
    expect(code, on.processes.describe()).toBe(0);
    const [folder] = on.runs() as [string];
    const about = on.events.flatMap(({ type, what, client }) => (type === 'client' ? [`${client} ${what}`] : []));
    expect(about.filter((text) => /gone|quarantined/.test(text))).toEqual([]);
    const lines = on.lines(folder);
    expect(lines.map(({ counted, retries }) => ({ counted, retries }))).toEqual(
      Array(8).fill({ counted: true, retries: 0 }),
    );
    for (const { lines: said } of clients)
      expect(said.flatMap((line) => /round (\d+): \d+ steps/.exec(line)?.[1] ?? []).map(Number)).toEqual([
        ...Array(8).keys(),
      ]);
    const alone = on.train(file);
    expect((await on.processes.exitOf(alone, 60_000)).code).toBe(0);
    expect(on.weights(folder)).toBe(on.weights(on.runs()[1] as string));
  }, 120_000);

  const buffered = (steps: number, concurrency: number, extra = '') =>
    config({ scheduler: 'fedbuff', steps, extra }).replace(
      /^ {2}cohort: .*$/m,
      `  concurrency: ${concurrency}\n  buffer: 2`,
    );

  it('FedBuff: one killed and started again, one that lies; what it was made of makes the same weights again', async () => {
    const on = await start();
    const file = join(on.folder, 'config.yaml');
    writeFileSync(file, buffered(240, CLIENTS, 'local_epochs: 15\n  max_norm: 100\n  fit_deadline_s: 20'));
    for (const part of [1, 2, 3]) on.client(part);
    const victim = on.client(4);
    on.liar('nan');
    const server = on.train(file, '--nats', on.url, '--min-clients', '5');
    await on.reached(3);
    await victim.kill();
    await on.processes.until('the server misses it', 30_000, () =>
      on.events.some(({ type, what, client }) => type === 'client' && what === 'gone' && /part-4/.test(String(client))),
    );
    const missed = Math.max(...on.events.flatMap(({ type, step }) => (type === 'step' ? [step as number] : [])));
    on.client(4);
    const { code } = await on.processes.exitOf(server, 60_000);
    expect(code, on.processes.describe()).toBe(0);
    const [run] = on.runs() as [string];
    const lines = on.lines(run);
    expect(lines.map(({ answers = [] }) => answers.length)).toEqual(Array(240).fill(2));
    // Nobody waited for who was gone, and it took part again when it was back.
    const gone = lines.flatMap(({ dropped_clients: each }) => each);
    expect(gone).toContainEqual({ client: 4, name: 'liar-nan', reason: 'number 0 of its update is NaN' });
    expect(lines.at(-1)?.quarantined).toBe(1);
    expect(missed).toBeGreaterThan(3);
    expect(lines.slice(missed).some(({ answers = [] }) => answers.some(({ client }) => client === 3))).toBe(true);
    // Several train at a time, so that answers are of versions before the newest.
    expect(lines.some(({ staleness = 0 }) => staleness > 0)).toBe(true);
    expect(on.weights(run)).toBe(await remade(lines, run));
  }, 120_000);

  it('FedBuff with one client at a time is the simulation, to the bit, also when server and client are killed', async () => {
    const on = await start();
    const file = join(on.folder, 'config.yaml');
    writeFileSync(file, buffered(8, 1));
    const clients = Array.from({ length: CLIENTS }, (_, i) => on.client(i + 1));
    const first = on.train(file, '--nats', on.url, '--min-clients', '5');
    await on.reached(3);
    await first.kill();
    await clients[1]?.kill();
    on.client(2);
    const [run] = on.runs() as [string];
    on.events.length = 0;
    const second = on.train('--resume', run, '--nats', on.url, '--min-clients', '5');
    const { code } = await on.processes.exitOf(second, 60_000);
    expect(code, on.processes.describe()).toBe(0);
    const alone = on.train(file);
    expect((await on.processes.exitOf(alone, 60_000)).code).toBe(0);
    const [, simulated] = on.runs() as [string, string];
    expect(on.lines(run).map(({ step }) => step)).toEqual(Array.from({ length: 8 }, (_, i) => i + 1));
    expect(on.weights(run)).toBe(on.weights(simulated));
    expect(on.lines(run).map(({ staleness }) => staleness)).toEqual(Array(8).fill(0));
  }, 120_000);
});
