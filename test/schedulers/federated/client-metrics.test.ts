import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ConfigError, complete, type RunEvent, resume, train } from '../../../src/index.ts';
import { spreadOf } from '../../../src/schedulers/federated/client-metrics.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'plexus-client-metrics-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const config = (id: string, scheduler: object, more: object = {}) => ({
  seed: 5,
  model: { name: 'mlp', args: { hidden: [16] } },
  // 60 examples a client, 250 to validate on: few executables make all steps and evaluations.
  data: { name: 'mnist', limit: 1450, validation: 0.1724 },
  optim: { name: 'sgd', lr: 0.1, momentum: 0 },
  train: { steps: 6, eval_every: 2 },
  run: { dir, id },
  scheduler: {
    name: 'fedavg',
    clients: 20,
    cohort: 5,
    local_batch: 12,
    threads: 1,
    client_metrics: { examples: 32 },
    ...scheduler,
  },
  ...more,
});

async function run(id: string, scheduler: object, more: object = {}) {
  const events: RunEvent[] = [];
  const finished = await complete(train(config(id, scheduler, more)), (event) => events.push(event));
  return { events, summary: finished.summary as Record<string, unknown> | null };
}
const linesOf = (id: string) =>
  readFileSync(join(dir, id, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

describe('how a figure differs between clients', () => {
  it('is told by mean, deviation, percentiles and the worst tenth', () => {
    const values = [0.9, 0.5, 0.7, 0.1, 0.3, 0.6, 0.8, 0.2, 0.4, 1, 0];
    const { mean, std, p10, p50, p90, worst_decile } = spreadOf(values, 'more');
    expect([mean, p50]).toEqual([0.5, 0.5]);
    expect(std).toBeCloseTo(Math.sqrt(0.1), 10);
    expect(p10).toBeCloseTo(0.1, 10);
    expect(p90).toBeCloseTo(0.9, 10);
    expect(worst_decile).toBeCloseTo(0.05, 10);
    expect(spreadOf(values, 'less').worst_decile).toBeCloseTo(0.95, 10);
    expect(spreadOf([0.25], 'more')).toEqual({
      mean: 0.25,
      std: 0,
      p10: 0.25,
      p50: 0.25,
      p90: 0.25,
      worst_decile: 0.25,
    });
    expect(() => spreadOf([], 'more')).toThrow(RangeError);
  });
});

describe('clients looked at one by one', () => {
  it('are in the event and in the line of the step, right and the same whatever the threads', async () => {
    const scheduler = { partition: { name: 'shards' }, client_metrics: { holdout: 0.2 } };
    const { events } = await run('two', { ...scheduler, threads: 2 });
    await run('one', scheduler);
    const lines = linesOf('two');
    const figures = lines.map(({ step, client_accuracy_each, client_accuracy_mean, clients_evaluated }) => ({
      step,
      client_accuracy_each,
      client_accuracy_mean,
      clients_evaluated,
    }));
    expect(figures).toEqual(
      linesOf('one').map(({ step, client_accuracy_each, client_accuracy_mean, clients_evaluated }) => ({
        step,
        client_accuracy_each,
        client_accuracy_mean,
        clients_evaluated,
      })),
    );
    const looked = lines.filter((line) => 'client_accuracy_mean' in line);
    expect(looked.map(({ step }) => step)).toEqual([2, 4, 6]);
    for (const line of looked) {
      expect(line.clients_evaluated).toHaveLength(20);
      // Twelve of its 60 examples are held out by each client.
      for (const value of line.client_accuracy_each) expect(value * 12).toBeCloseTo(Math.round(value * 12), 4);
      const { mean, worst_decile } = spreadOf(line.client_accuracy_each, 'more');
      expect(line.client_accuracy_mean).toBeCloseTo(mean, 5);
      expect(line.client_accuracy_worst_decile).toBeCloseTo(worst_decile, 5);
      expect(line).toMatchObject({ validation_loss: expect.any(Number), accuracy: expect.any(Number) });
      expect(line.personal_accuracy_mean).toBeUndefined();
    }
    const evaluated = events.filter((event) => event.type === 'evaluated');
    expect(evaluated.map(({ step }) => step)).toEqual([2, 4, 6]);
    expect(evaluated[0]?.metrics.client_accuracy_p10).toBe(looked[0].client_accuracy_p10);
  });

  it('are a sample of many, and none if none are wanted', async () => {
    await run('many', { clients: 10_000, partition: { name: 'drawn' }, client_metrics: { clients: 12, examples: 10 } });
    const [line] = linesOf('many').filter(({ step }) => step === 2);
    expect(line.clients_evaluated).toHaveLength(12);
    expect(Math.max(...line.clients_evaluated)).toBeGreaterThan(5000);
  });

  it('have models of their own where the strategy makes them, which do better on their data', async () => {
    await run(
      'own',
      { name: 'fedper', personal: ['head.*'], cohort: 20, local_epochs: 3, partition: { name: 'shards' } },
      { train: { steps: 3 } },
    );
    const line = linesOf('own').at(-1);
    expect(line.personal_accuracy_mean).toBeGreaterThan(line.client_accuracy_mean + 0.1);
    expect(line.personal_accuracy_each).toHaveLength(20);
  });
});

describe('an accuracy that is aimed at', () => {
  it('is recorded with the round that reached it, also over an interruption, and can end the run', async () => {
    const { summary } = await run('aim', { target_accuracy: 0.3 });
    const reached = linesOf('aim').find(({ accuracy }) => accuracy >= 0.3).step;
    expect(summary).toMatchObject({ rounds_to_target: reached, target_accuracy: 0.3, steps: 6 });
    expect(summary).toMatchObject({ bytes_up: expect.any(Number), simulated_s: expect.any(Number) });
    const stop = new AbortController();
    for await (const event of train(config('aim-2', { target_accuracy: 0.3 }), { signal: stop.signal }))
      if (event.type === 'step' && event.step === 5) stop.abort();
    expect((await complete(resume(join(dir, 'aim-2')))).summary).toMatchObject({ rounds_to_target: reached });
    const early = await run('aim-3', { target_accuracy: 0.3, stop_at_target: true });
    expect(early.summary).toMatchObject({ rounds_to_target: reached, steps: reached });
  });
});

describe('who has which data', () => {
  it('is drawn in the run folder, and named when the run starts', async () => {
    const { events } = await run('picture', {
      partition: { name: 'dirichlet', alpha: 0.3 },
      client_metrics: { clients: 0 },
    });
    expect(linesOf('picture')[1]).not.toHaveProperty('client_accuracy_mean');
    const started = events.find((event) => event.type === 'started');
    const path = join(dir, 'picture', 'partition.svg');
    expect(started?.federated).toMatchObject({ steps: 'rounds', clients: 20, width: 5, picture: path });
    const svg = readFileSync(path, 'utf8');
    expect(svg).toContain('dirichlet, alpha 0.3: training examples of mnist');
    expect(svg.match(/<title>client \d+, class/g)?.length).toBeGreaterThan(40);
  });

  it('goes by a key of the data, with as many clients as there are keys', async () => {
    const path = join(dir, 'writers.csv');
    const rows = Array.from({ length: 400 }, (_, i) => {
      const x = ((i * 37) % 101) / 101;
      return `${x},${1 - x},w${(i * 7) % 5},${x > 0.5 ? 'high' : 'low'}`;
    });
    writeFileSync(path, `a,b,writer,label\n${rows.join('\n')}\n`);
    const more = { data: { name: 'csv', path, columns: ['a', 'b'], validation: 0.2 } };
    const partition = { name: 'natural', key: 'writer' };
    const { events, summary } = await run('natural', { name: 'scaffold', partition, local_epochs: 3 }, more);
    expect(events.find((event) => event.type === 'started')?.federated?.clients).toBe(5);
    expect(summary?.accuracy).toBeGreaterThan(0.8);
    expect(readFileSync(join(dir, 'natural', 'partition.svg'), 'utf8')).toContain('>w3<');
    await expect(run('bad', { partition: { name: 'natural', key: 'writter' } }, more)).rejects.toThrow(
      /no column 'writter'/,
    );
    await expect(run('bad', { partition: { ...partition, min_size: 1000 } }, more)).rejects.toThrow(ConfigError);
    expect(existsSync(join(dir, 'bad', 'partition.svg'))).toBe(false);
  });

  it('differs in features where images are turned, the same whatever the threads', async () => {
    const scheduler = { feature_shift: { name: 'rotation', groups: 4 }, cohort: 8 };
    const turned = await run('turned', { ...scheduler, threads: 2 });
    const one = await run('turned-1', scheduler);
    expect(one.summary?.weights_sha256).toBe(turned.summary?.weights_sha256);
    expect(one.summary?.val_loss).toBe(turned.summary?.val_loss);
    expect(readFileSync(join(dir, 'turned', 'partition.svg'), 'utf8')).toContain('turned by 270°');
    const table = join(dir, 'writers.csv');
    const csv = { data: { name: 'csv', path: table, columns: ['a', 'b'], validation: 0.2 } };
    await expect(run('flat', scheduler, csv)).rejects.toThrow(/scheduler.feature_shift: only square grey images/);
  });
});
