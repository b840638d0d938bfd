import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  complete,
  dequantiseSum,
  epsilonOf,
  keystream,
  levelsFor,
  quantise,
  resume,
  roundingKey,
  train,
} from '../../../src/index.ts';
import {
  addLocalNoise,
  type ClientUpdate,
  localPrivacy,
  secureCollector,
} from '../../../src/schedulers/federated/index.ts';
import { createRng } from '../../../src/tensor/index.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'plexus-private-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const config = (id: string, scheduler: object, steps = 4) => ({
  seed: 5,
  model: { name: 'mlp', args: { hidden: [16] } },
  data: { name: 'mnist', limit: 400, validation: 0.1 },
  optim: { name: 'sgd', lr: 0.1, momentum: 0 },
  train: { steps, eval_every: 0 },
  run: { dir, id },
  scheduler: { name: 'fedavg', clients: 20, cohort: 8, local_batch: 8, threads: 1, ...scheduler },
});
const run = (id: string, scheduler: object, steps?: number) => complete(train(config(id, scheduler, steps)));
const metricsOf = (id: string) =>
  readFileSync(join(dir, id, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

/** Runs with one thread, and with two but interrupted; both must come to the same. */
async function expectSameBits(name: string, scheduler: object) {
  const whole = await run(`${name}-1`, scheduler);
  const stop = new AbortController();
  for await (const event of train(config(`${name}-2`, { ...scheduler, threads: 2 }), { signal: stop.signal }))
    if (event.type === 'step' && event.step === 2) stop.abort();
  const rest = await complete(resume(join(dir, `${name}-2`)));
  for (const key of ['weights_sha256', 'losses_sha256', 'samples_seen', 'epsilon'] as const)
    expect(rest.summary?.[key], key).toBe(whole.summary?.[key]);
  return whole.summary;
}

const updates = (count: number, length = 300): ClientUpdate[] =>
  Array.from({ length: count }, (_, client) => ({
    update: createRng(client).fillNormal(new Float32Array(length), 0, 0.3),
    report: {
      client,
      examples: 10,
      steps: 1,
      weight: 10 + client,
      loss: 1,
      norm: 1,
      kept: {},
      ms: 1,
      problem: null,
    },
  }));

describe('secure aggregation of rounds', () => {
  const secagg = { name: 'secagg+', neighbours: 20, range: 8 } as const;
  const members = Array.from({ length: 10 }, (_, i) => i);
  // (Their memory is used for what is sent.)
  const copies = (of: readonly ClientUpdate[]) => of.map(({ update, report }) => ({ update: update.slice(), report }));

  it('gives the server nothing but noise of each client, and the exact sum, when 30 % leave', async () => {
    const seen = new Map<number, Uint32Array>();
    const given = updates(10);
    const collector = secureCollector({
      config: secagg,
      seed: 3,
      onArrival: (of, masked) => seen.set(of, masked.slice()),
    });
    const sending = given.slice(0, 7);
    const collection = await collector.begin({ round: 4, members, largest: 19, length: 300 });
    const { sum, weight, failure } = await collection.collect({ updates: copies(sending), clipNorm: null });
    expect(failure).toBeNull();
    expect(weight).toBe(10 + 11 + 12 + 13 + 14 + 15 + 16);
    expect([...seen.keys()]).toEqual([0, 1, 2, 3, 4, 5, 6]);
    // What would be sent without masks, added up without them.
    const levels = { range: 8, levels: levelsFor(10) };
    const total = new Uint32Array(300);
    for (const { update, report } of sending) {
      const rng = createRng(3).fork('secure aggregation', 4).fork('rounding', report.client);
      const share = report.weight / 19;
      const plain = quantise(
        update.map((value) => value * share),
        levels,
        keystream(roundingKey(rng)),
      );
      const masked = seen.get(report.client) as Uint32Array;
      // Neither the numbers nor what they differ by says anything: both are spread over the whole ring.
      for (const numbers of [masked, masked.map((value, i) => value - (plain[i] as number))]) {
        expect(Math.abs(numbers.reduce((mean, value) => mean + value / 300, 0) / 2 ** 31 - 1)).toBeLessThan(0.2);
        expect(new Set(numbers).size).toBe(300);
      }
      plain.forEach((value, i) => {
        total[i] = (total[i] as number) + value;
      });
    }
    expect(sum).toEqual(dequantiseSum(total, 7, levels).map((value) => value * 19));
    sum?.forEach((value, i) => {
      const exact = sending.reduce((all, { update, report }) => all + report.weight * (update[i] as number), 0);
      expect(Math.abs(value - exact)).toBeLessThan(1e-3);
    });
  });

  it('ends a round of which too few are left with the reason, and names clients beyond the range', async () => {
    const collector = secureCollector({ config: secagg, seed: 3 });
    const given = updates(10);
    const collect = async (round: number, of: readonly number[], sending: number) => {
      const collection = await collector.begin({ round, members: of, largest: 19, length: 300 });
      return collection.collect({ updates: copies(given.slice(0, sending)), clipNorm: null });
    };
    const few = await collect(0, members, 4);
    expect(few.failure).toMatch(
      /only 3 of the 9 neighbours of client 0 are left in aggregation round 0, and it needs 5/,
    );
    const one = await collect(0, [0], 1);
    expect(one.failure).toMatch(/hides nothing/);
    (given[2] as ClientUpdate).update[5] = 9;
    const { reports, failure } = await collect(1, members, 10);
    expect(failure).toBeNull();
    expect(reports[2]?.problem).toMatch(/changes a value by 9.000, the range of secure aggregation is 8/);
  });

  it('trains as without it, to the size of a rounding, with the same bits whatever the threads', async () => {
    const behaviour = { dropout: 0.2 };
    const summary = await expectSameBits('secagg', { secure_aggregation: { name: 'secagg+' }, behaviour });
    const plain = await run('plain', { behaviour });
    expect(Math.abs((summary?.val_loss ?? 0) - (plain.summary?.val_loss ?? 1))).toBeLessThan(1e-4);
    const [masked, open] = [metricsOf('secagg-1'), metricsOf('plain')];
    expect(masked.map(({ clients }) => clients)).toEqual(open.map(({ clients }) => clients));
    expect(masked.some(({ dropped }) => dropped > 0)).toBe(true);
    expect(masked[0].bytes_up).toBeGreaterThan(open[0].bytes_up);
  });

  it('goes on after rounds that cannot be finished, and says why', async () => {
    const scheduler = { secure_aggregation: { name: 'secagg' }, behaviour: { dropout: 0.55 } };
    const { summary } = await run('few', scheduler, 6);
    expect(summary?.steps).toBe(6);
    const lines = metricsOf('few');
    const failed = lines.filter(({ counted }) => !counted);
    expect(failed.length).toBeGreaterThan(0);
    expect(failed.length).toBeLessThan(6);
    for (const { uncounted } of failed) expect(uncounted).toMatch(/neighbours of client \d+ are left|hides nothing/);
  });
});

describe('differential privacy of a run', () => {
  it('tells epsilon in every round and in the end, also after an interruption', async () => {
    const privacy = { name: 'central-dp', noise_multiplier: 1.5, clip_norm: 0.5, clipping: 'adaptive', count_noise: 1 };
    const summary = await expectSameBits('central', { privacy });
    const spent = [1, 2, 3, 4].map((rounds) => epsilonOf({ noiseMultiplier: 1.5, sampling: 0.4, rounds }, 1e-5));
    expect(metricsOf('central-2').map(({ epsilon }) => epsilon)).toEqual(spent);
    expect(summary).toMatchObject({ epsilon: spent[3], delta: 1e-5 });
    const bounds = metricsOf('central-2').map(({ clip_norm }) => clip_norm);
    expect(new Set(bounds).size).toBe(4);
  });

  it('goes with server optimizers and with secure aggregation', async () => {
    const { summary } = await run('both', {
      name: 'fedavgm',
      privacy: { name: 'central-dp', noise_multiplier: 0.3, clip_norm: 1 },
      secure_aggregation: { name: 'secagg+' },
    });
    expect(summary?.epsilon).toBe(epsilonOf({ noiseMultiplier: 0.3, sampling: 0.4, rounds: 4 }, 1e-5));
  });

  it('lets clients add their own noise, and counts for the one asked most often', async () => {
    const privacy = { name: 'local-dp', noise_multiplier: 2, clip_norm: 0.1 };
    const summary = await expectSameBits('local', { privacy, cohort: 20 });
    expect(summary?.epsilon).toBe(epsilonOf({ noiseMultiplier: 1, sampling: 1, rounds: 4 }, 1e-5));
  });

  it('draws the noise of real clients from a secret besides, as large as it is to be', () => {
    const noise = (secret?: string) => {
      const update = new Float32Array(200_000);
      addLocalNoise(update, 0.5, { seed: 1, round: 2, client: 3, ...(secret === undefined ? {} : { secret }) });
      return update;
    };
    const [none, one, other] = [noise(), noise('a'), noise('b')];
    expect(noise('a')).toEqual(one);
    const correlation = (a: Float32Array, b: Float32Array) =>
      a.reduce((sum, value, i) => sum + value * (b[i] as number), 0) / a.length / 0.25;
    for (const each of [none, one, other]) expect(Math.abs(Math.sqrt(correlation(each, each)) - 1)).toBeLessThan(0.01);
    for (const [a, b] of [
      [none, one],
      [one, other],
    ] as const)
      expect(Math.abs(correlation(a, b))).toBeLessThan(0.01);
  });

  it('counts clients beyond those of the config together, so that the budget is never told too small', () => {
    const server = localPrivacy(
      { needs: 'sum', sees: 'sum', apply: () => undefined },
      { noise_multiplier: 2, clip_norm: 1, delta: 1e-5 },
      { clients: 3 },
    );
    for (const client of [0, 0, 5, 6, 7]) server.noise?.(client);
    expect(server.spent()).toBe(epsilonOf({ noiseMultiplier: 1, sampling: 1, rounds: 3 }, 1e-5));
  });

  it('refuses strategies that look at single clients, and what cannot be had', async () => {
    const secure_aggregation = { name: 'secagg+' };
    const privacy = { name: 'central-dp', noise_multiplier: 1 };
    for (const name of ['krum', 'scaffold', 'fedmedian'])
      await expect(run('no', { name, secure_aggregation })).rejects.toThrow(/scheduler.secure_aggregation.*sums alone/);
    for (const name of ['fednova', 'scaffold', 'krum'])
      await expect(run('no', { name, privacy })).rejects.toThrow(/scheduler.privacy.*noise on updates does not hide/);
    const adaptive = { ...privacy, clipping: 'adaptive', count_noise: 1 };
    await expect(run('no', { privacy: adaptive, secure_aggregation })).rejects.toThrow(/set clipping: fixed/);
    const loud = { ...adaptive, noise_multiplier: 3 };
    await expect(run('no', { privacy: loud })).rejects.toThrow(/raise count_noise above 1.5/);
    await expect(run('no', { privacy: { name: 'central' } })).rejects.toThrow(/privacy/);
  });
});
