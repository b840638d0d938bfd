import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ConfigError, complete, resume, train } from '../../../src/index.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'plexus-without-rounds-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const config = (id: string, scheduler: object) => ({
  seed: 5,
  model: { name: 'mlp', args: { hidden: [16] } },
  data: { name: 'mnist', limit: 400, validation: 0.1 },
  optim: { name: 'sgd', lr: 0.1, momentum: 0 },
  train: { steps: 6, eval_every: 0 },
  run: { dir, id },
  scheduler: { clients: 8, local_batch: 8, threads: 1, ...scheduler },
});
const run = (id: string, scheduler: object) => complete(train(config(id, scheduler)));
const metricsOf = (id: string) =>
  readFileSync(join(dir, id, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

/** What must not depend on threads or on interruptions: everything but how long it took. */
const told = (id: string) =>
  metricsOf(id).map(({ step_ms: _, examples_per_s: __, ...line }) => line as Record<string, unknown>);

const behaviour = { speed_spread: 10, dropout: 0.1, availability: 0.9 };

describe('a run without rounds, or without a server', () => {
  it.each([
    { name: 'fedbuff', concurrency: 5, buffer: 2, behaviour },
    { name: 'fedasync', concurrency: 4, behaviour },
    { name: 'gossip', topology: 'ring', behaviour },
  ])('has the same bits with one thread and with two, interrupted and not: $name', async (scheduler) => {
    const { name } = scheduler;
    const whole = await run(`${name}-1`, scheduler);
    const stop = new AbortController();
    for await (const event of train(config(`${name}-2`, { ...scheduler, threads: 2 }), { signal: stop.signal }))
      if (event.type === 'step' && event.step === 3) stop.abort();
    const rest = await complete(resume(join(dir, `${name}-2`)));
    expect(told(`${name}-2`)).toEqual(told(`${name}-1`));
    for (const key of ['weights_sha256', 'losses_sha256', 'samples_seen', 'simulated_s', 'comm_bytes'] as const)
      expect(rest.summary?.[key], key).toBe(whole.summary?.[key]);
  });

  it('tells of updates that are too old, and of clients away', async () => {
    await run('stale', {
      name: 'fedbuff',
      concurrency: 6,
      buffer: 1,
      max_staleness: 1,
      behaviour: { speed_spread: 100, availability: 0.7, dropout: 0.2 },
    });
    const dropped = metricsOf('stale').flatMap((line) => line.dropped_clients);
    for (const why of [/could not be reached/, /left while it trained/, /began \d+ versions ago, the bound is 1/])
      expect(dropped.some(({ reason }: { reason: string }) => why.test(reason))).toBe(true);
  });

  it('waits for nobody longer than it is told to', async () => {
    const scheduler = { name: 'fedbuff', concurrency: 8, buffer: 4, behaviour: { speed_spread: 100 } };
    await run('patient', scheduler);
    expect(metricsOf('patient').flatMap((line) => line.dropped_clients)).toEqual([]);
    const { summary } = await run('deadline', { ...scheduler, fit_deadline_s: 0.1 });
    const dropped = metricsOf('deadline').flatMap((line) => line.dropped_clients);
    expect(dropped.length).toBeGreaterThan(0);
    for (const { reason } of dropped) expect(reason).toMatch(/it would have taken [\d.]+ s, the deadline is 0.1 s/);
    expect(summary?.weights_sha256).toMatch(/^[0-9a-f]{64}$/);
  });

  it('refuses what cannot be', async () => {
    await expect(run('bad', { name: 'fedbuff', concurrency: 9 })).rejects.toThrow(ConfigError);
    await expect(run('bad', { name: 'fedbuff', concurrency: 9 })).rejects.toThrow(/scheduler.concurrency 9 is more/);
    await expect(run('bad', { name: 'gossip', topology: 'star' })).rejects.toThrow(/topology/);
    await expect(run('bad', { name: 'gossip', clients: 1 })).rejects.toThrow(/clients/);
  });
});
