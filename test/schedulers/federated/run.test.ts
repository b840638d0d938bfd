import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ConfigError, complete, type RunEvent, resume, train } from '../../../src/index.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'plexus-federated-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const config = (id: string, scheduler: object, more: object = {}) => ({
  seed: 5,
  model: { name: 'mlp', args: { hidden: [16] } },
  data: { name: 'mnist', limit: 1000, validation: 0.1 },
  optim: { name: 'sgd', lr: 0.1, momentum: 0 },
  train: { steps: 6, eval_every: 3 },
  run: { dir, id },
  scheduler: { clients: 20, cohort: 5, local_batch: 8, threads: 2, ...scheduler },
  ...more,
});

async function run(id: string, scheduler: object, more: object = {}) {
  const events: RunEvent[] = [];
  const finished = await complete(train(config(id, scheduler, more)), (event) => events.push(event));
  return { finished, events, summary: finished.summary };
}

const metricsOf = (id: string) =>
  readFileSync(join(dir, id, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

describe('a federated run', () => {
  it('learns, evaluates and writes what other runs write', async () => {
    const { summary, events } = await run('plain', { name: 'fedavg' });
    expect(summary?.steps).toBe(6);
    expect(events.filter(({ type }) => type === 'evaluated')).toHaveLength(2);
    expect(summary?.accuracy).toBeGreaterThan(0.4);
    const lines = metricsOf('plain');
    expect(lines.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(lines[0]).toMatchObject({ clients: 5, dropped: 0, counted: true });
    expect(lines[0].bytes_up).toBe(lines[0].bytes_down);
  });

  it.each(['fedavg', 'scaffold', 'fedadam', 'krum'])(
    'has the same bits with one thread, with two, and when it was interrupted: %s',
    async (name) => {
      const scheduler = { name, ...(name === 'krum' ? { malicious: 1 } : {}) };
      const whole = await run(`${name}-1`, { ...scheduler, threads: 1 });
      const two = await run(`${name}-2`, { ...scheduler, threads: 2 });
      expect(two.summary?.weights_sha256).toBe(whole.summary?.weights_sha256);
      const stop = new AbortController();
      for await (const event of train(config(`${name}-3`, scheduler), { signal: stop.signal }))
        if (event.type === 'step' && event.step === 4) stop.abort();
      const rest = await complete(resume(join(dir, `${name}-3`)));
      expect(rest.summary?.weights_sha256).toBe(whole.summary?.weights_sha256);
      expect(rest.summary?.losses_sha256).toBe(whole.summary?.losses_sha256);
    },
  );

  it('of fedsgd, where all take part, is gradient descent on all examples, however they are shared out', async () => {
    const scheduler = { name: 'fedsgd', local_batch: null, cohort: 20 };
    const one = await run('sgd-1', { ...scheduler, clients: 1, cohort: 1 });
    for (const partition of [{ name: 'iid' }, { name: 'dirichlet', alpha: 0.3 }]) {
      const many = await run(`sgd-${partition.name}`, { ...scheduler, partition });
      expect(many.summary?.loss).toBeCloseTo(one.summary?.loss as number, 4);
      expect(metricsOf(`sgd-${partition.name}`)[2].loss).toBeCloseTo(metricsOf('sgd-1')[2].loss, 4);
      expect(many.summary?.weights_sha256).not.toBe(one.summary?.weights_sha256);
    }
    const averaged = await run('sgd-avg', { name: 'fedavg', cohort: 20 });
    expect(Math.abs((averaged.summary?.loss as number) - (one.summary?.loss as number))).toBeGreaterThan(0.05);
    const whole = await run('sgd-whole', { name: 'fedavg', local_batch: null, clients: 1, cohort: 1 });
    expect(whole.summary?.weights_sha256).toBe(one.summary?.weights_sha256);
    await expect(run('sgd-batches', { name: 'fedsgd', local_batch: 10 })).rejects.toThrow(/local_batch/);
    await expect(run('sgd-passes', { name: 'fedsgd', local_batch: null, local_epochs: 2 })).rejects.toThrow(
      /local_epochs/,
    );
  });

  it('is refused where a strategy cannot stand up to so many liars', async () => {
    const many = { name: 'krum', malicious: 2 };
    await expect(run('few', many)).rejects.toThrow(ConfigError);
    await expect(run('few', many)).rejects.toThrow(
      /scheduler.malicious 2: krum .* 7 clients or more .* a round asks 5: raise scheduler.cohort to 7, or lower .* to 1/,
    );
    await expect(run('few', { ...many, clients: 6, cohort: 10 })).rejects.toThrow(/asks 6: have 7 clients or more/);
    await expect(run('few', { name: 'bulyan', malicious: 1, cohort: 6 })).rejects.toThrow(
      /raise scheduler.cohort to 7/,
    );
  });

  it('says of a round how many liars its answers stand up to', async () => {
    const more = { train: { steps: 8, eval_every: 0 } };
    await run('left', { name: 'krum', cohort: 9, malicious: 3, quorum: 3, behaviour: { dropout: 0.4 } }, more);
    const lines = metricsOf('left');
    for (const { clients, counted, liars_withstood } of lines)
      expect(liars_withstood).toBe(counted ? Math.min(3, Math.floor((clients - 3) / 2)) : undefined);
    expect(lines.some(({ liars_withstood }) => liars_withstood < 3)).toBe(true);
  });

  it('warns where a trimmed mean trims nothing', async () => {
    const { events } = await run('whole', { name: 'fedtrimmedavg', trim: 0.1 }, { train: { steps: 1, eval_every: 0 } });
    const warned = events.flatMap((event) => (event.type === 'warning' ? event.message : []));
    expect(warned).toContainEqual(expect.stringMatching(/^fedtrimmedavg leaves nobody out.*scheduler.cohort to 10$/));
    expect(metricsOf('whole')[0].liars_withstood).toBe(0);
  });

  it('names who was dropped and why, and goes on', async () => {
    const { summary } = await run('faults', {
      name: 'fedavg',
      cohort: 12,
      behaviour: { dropout: 0.3, availability: 0.8, speed_spread: 20 },
      round_deadline_s: 0.2,
    });
    expect(summary?.steps).toBe(6);
    const dropped = metricsOf('faults').flatMap((line) => line.dropped_clients);
    for (const why of [/could not be reached/, /left in the middle/, /the deadline is 0.2 s/])
      expect(dropped.some(({ reason }: { reason: string }) => why.test(reason))).toBe(true);
  });

  it('does not change the parameters when too few answer', async () => {
    const behaviour = { dropout: 1 };
    const { summary, events } = await run('quorum', { name: 'fedavg', quorum: 5, behaviour });
    expect(summary?.steps).toBe(6);
    expect(metricsOf('quorum').every(({ counted }) => counted === false)).toBe(true);
    expect(summary).toMatchObject({
      rounds_uncounted: 6,
      uncounted: '0 clients answered, the quorum is 5',
      left_out: { 'it left in the middle of the round': 30 },
    });
    const warned = events.flatMap((event) => (event.type === 'warning' ? event.message : []));
    expect(warned.some((message) => /none of 6 rounds changed the parameters/.test(message))).toBe(true);
    await expect(run('never', { name: 'fedavg', quorum: 6 })).rejects.toThrow(
      /scheduler.quorum 6 is more than a round asks \(5\).*raise scheduler.cohort/,
    );
  });

  it('refuses control variates where steps do not say what gradients were', async () => {
    const adam = { optim: { name: 'adamw', lr: 0.001 } };
    for (const name of ['scaffold', 'fednova'])
      await expect(run('adam', { name }, adam)).rejects.toThrow(
        new RegExp(`${name}.*adamw.*set optim.name to sgd`, 's'),
      );
  });

  it('refuses a partition that cannot be made', async () => {
    const scheduler = { name: 'fedavg', clients: 500, partition: { name: 'dirichlet', alpha: 0.01, min_size: 5 } };
    await expect(run('bad', scheduler)).rejects.toThrow(ConfigError);
    await expect(run('bad', scheduler)).rejects.toThrow(/scheduler.partition/);
    await expect(run('bad', { name: 'fedavg', cohrt: 3 })).rejects.toThrow(/cohort/);
  });
});
