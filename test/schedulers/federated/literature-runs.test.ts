import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ConfigError, complete, type RunEvent, resolveConfig, resume, train } from '../../../src/index.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'plexus-literature-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const cases = {
  fedetf: {
    model: { name: 'mlp', args: { hidden: [16], head: { kind: 'etf' } } },
    scheduler: { name: 'fedetf', partition: { name: 'shards', shards: 2 } },
  },
  fedtiny: {
    model: { name: 'cnn', args: { channels: [4], hidden: null, norm: 'batch' } },
    scheduler: { name: 'fedtiny', density: 0.3, flops: 0.8, candidates: 3, every: 1, until: 4, rate: 0.3 },
  },
  fedmoe: {
    model: { name: 'moe-mlp', args: { dim: 16, experts: 4, hidden: 16 } },
    scheduler: { name: 'fedmoe', max_experts: 2, partition: { name: 'shards', shards: 2 } },
  },
};

const config = (id: string, of: keyof typeof cases, scheduler: object = {}) => ({
  seed: 5,
  model: cases[of].model,
  data: { name: 'mnist', limit: 1000, validation: 0.1 },
  optim: { name: 'sgd', lr: 0.1, momentum: 0 },
  // (Every client has fifty examples: few shapes are to be compiled.)
  train: { steps: 6, eval_every: 3 },
  run: { dir, id },
  scheduler: { clients: 18, cohort: 5, local_batch: 10, threads: 2, ...cases[of].scheduler, ...scheduler },
});

const linesOf = (id: string) =>
  readFileSync(join(dir, id, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

describe('methods of the literature as runs', () => {
  it.each(['fedetf', 'fedtiny', 'fedmoe'] as const)(
    '%s learns, with the same bits on one thread, on two, and when it was interrupted',
    async (name) => {
      const whole = await complete(train(config(`${name}-1`, name, { threads: 1 })));
      expect(whole.summary?.accuracy).toBeGreaterThan(0.3);
      const stop = new AbortController();
      for await (const event of train(config(`${name}-2`, name), { signal: stop.signal }))
        if (event.type === 'step' && event.step === 3) stop.abort();
      const rest = await complete(resume(join(dir, `${name}-2`)));
      expect(rest.summary?.weights_sha256).toBe(whole.summary?.weights_sha256);
      expect(rest.summary?.losses_sha256).toBe(whole.summary?.losses_sha256);
      const figures = (id: string) =>
        linesOf(id).map(({ bytes_up, bytes_down, density, exchanged, experts_sent }) => ({
          bytes_up,
          bytes_down,
          density,
          exchanged,
          experts_sent,
        }));
      expect(figures(`${name}-2`)).toEqual(figures(`${name}-1`));
    },
  );

  it('fedtiny stays within its budget, exchanges weights, and sends what is left of the model', () => {
    const lines = linesOf('fedtiny-1');
    for (const { density, flops_share } of lines) {
      expect(density).toBeLessThanOrEqual(0.3);
      expect(density).toBeGreaterThan(0.25);
      expect(flops_share).toBeLessThanOrEqual(0.8);
    }
    expect(lines.slice(1, 4).some(({ exchanged }) => exchanged > 0)).toBe(true);
    expect(lines.slice(4).every(({ exchanged }) => exchanged === 0)).toBe(true);
    const dense = 4 * (9 * 4 + 4 * 2 + 14 * 14 * 4 * 10 + 10 + 8) * 5;
    expect(lines[5].bytes_up).toBeLessThan(0.31 * dense);
    expect(lines[0].bytes_down).toBeGreaterThan(lines[5].bytes_down);
  });

  it('fedmoe sends no more experts than it may', () => {
    for (const { experts_sent, bytes_up, bytes_down } of linesOf('fedmoe-1')) {
      expect(experts_sent).toBeLessThanOrEqual(0.5);
      expect(bytes_up).toBeLessThan(bytes_down);
    }
  });

  it('says which model they need', async () => {
    const wrong = { ...config('wrong', 'fedetf'), model: { name: 'mlp', args: { hidden: [16] } } };
    await expect(complete(train(wrong))).rejects.toThrow(ConfigError);
    await expect(complete(train(wrong))).rejects.toThrow(/head: \{ kind: etf \}/);
  });
});

describe('configs of these methods', () => {
  async function tried(file: string, overrides: readonly string[]) {
    const path = `configs/federated/${file}`;
    expect(readFileSync(path, 'utf8')).toContain(`plexus train ${path}`);
    const common = ['train.steps=1', 'train.eval_every=0', 'scheduler.threads=1', `run.dir=${dir}`];
    const events: RunEvent[] = [];
    const { summary } = await complete(train(resolveConfig(path, [...common, ...overrides])), (e) => events.push(e));
    expect(events.filter(({ type }) => type === 'warning')).toEqual([]);
    expect(summary?.steps).toBe(1);
    return { summary, events };
  }

  it.each(['fedetf', 'fedtiny', 'fedmoe'])('%s.yaml trains', async (name) => {
    const { summary } = await tried(`${name}.yaml`, [
      ...(name === 'fedetf' ? ['scheduler.tuned_clients=3'] : []),
      'data.limit=2000',
      'scheduler.clients=10',
      'scheduler.cohort=2',
      'scheduler.local_batch=100',
    ]);
    expect(summary?.accuracy).toBeGreaterThan(0.05);
    // Clients that fine-tune are better at what they held out.
    const { tuned_accuracy_mean: tuned = 1, untuned_accuracy_mean: untuned = 0 } = (summary ?? {}) as {
      tuned_accuracy_mean?: number;
      untuned_accuracy_mean?: number;
    };
    expect(tuned).toBeGreaterThan(untuned);
  });

  it('sotu-president.yaml trains a client a president', async () => {
    const speeches = join(dir, 'speeches');
    mkdirSync(speeches);
    const text = (word: string) => `${word} fellow citizens of the union, `.repeat(60);
    for (const name of [
      '1981_ronald_reagan_r',
      '1982_ronald_reagan_r',
      '1993_william_j_clinton_d',
      '2009_barack_obama_d',
    ])
      writeFileSync(join(speeches, `${name}.txt`), text(name.slice(5, 9)));
    const { events } = await tried('sotu-president.yaml', [`data.path=${speeches}`, 'model.args.dim=16']);
    const started = events.find((event) => event.type === 'started');
    expect(started).toMatchObject({ federated: { clients: 3 } });
  });
});
