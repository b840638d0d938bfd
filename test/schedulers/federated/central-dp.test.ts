import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  addLocalNoise,
  averaging,
  type ClientReport,
  centralDpSchema,
  epsilonOf,
  localPrivacy,
  privateAveraging,
  releaseLog,
} from '../../../src/schedulers/federated/index.ts';

const report = (client: number, norm: number): ClientReport => ({
  client,
  examples: 10,
  steps: 1,
  weight: 1,
  loss: 1,
  norm,
  kept: {},
  ms: 1,
  problem: null,
});
const outcome = (round: number, sum: Float32Array, norms: readonly number[]) => ({
  round,
  sum,
  weight: norms.length,
  updates: [],
  reports: norms.map((norm, client) => report(client, norm)),
  kept: () => null,
});

describe('central differential privacy', () => {
  it('adds the noise that was asked for, to within 1 %', () => {
    const size = 200_000;
    const server = privateAveraging(
      centralDpSchema.parse({ name: 'central-dp', noise_multiplier: 1.3, clip_norm: 0.5 }),
      {
        cohort: 10,
        clients: 1000,
        seed: 4,
      },
    );
    const params = new Float32Array(size);
    server.apply(outcome(0, new Float32Array(size).fill(3), [1, 1]), params, new Float32Array(0));
    const mean = params.reduce((a, b) => a + b, 0) / size;
    const deviation = Math.sqrt(params.reduce((sum, x) => sum + (x - mean) ** 2, 0) / size);
    expect(mean).toBeCloseTo(0.3, 3);
    // Noise of 1.3 * 0.5 on the sum, over a cohort of 10.
    expect(Math.abs(deviation / 0.065 - 1)).toBeLessThan(0.01);
    const again = new Float32Array(size);
    server.apply(outcome(1, new Float32Array(size).fill(3), [1, 1]), again, new Float32Array(0));
    expect(again[0]).not.toBe(params[0]);
  });

  it('adds the noise of clients that was asked for, to within 1 %', () => {
    const update = new Float32Array(200_000);
    addLocalNoise(update, 0.2, { seed: 4, round: 1, client: 2 });
    const deviation = Math.sqrt(update.reduce((sum, x) => sum + x * x, 0) / update.length);
    expect(Math.abs(deviation / 0.2 - 1)).toBeLessThan(0.01);
    const other = new Float32Array(200_000);
    addLocalNoise(other, 0.2, { seed: 4, round: 1, client: 3 });
    const common = update.reduce((sum, x, i) => sum + x * (other[i] as number), 0) / (0.04 * update.length);
    expect(Math.abs(common)).toBeLessThan(0.01);
  });

  it('is another draw where only the server knows the secret', () => {
    const noise = ['', 'a', 'b'].map((secret) => {
      const config = centralDpSchema.parse({ name: 'central-dp', noise_multiplier: 1 });
      const server = privateAveraging(config, { cohort: 10, clients: 1000, seed: 4, secret });
      const params = new Float32Array(4);
      server.apply(outcome(0, new Float32Array(4), [1]), params, new Float32Array(0));
      return params[0];
    });
    expect(new Set(noise).size).toBe(3);
  });

  it('moves an adaptive bound to the quantile of the norms', () => {
    const config = centralDpSchema.parse({
      name: 'central-dp',
      noise_multiplier: 0.5,
      clip_norm: 10,
      clipping: 'adaptive',
      quantile: 0.8,
      count_noise: 1,
    });
    const server = privateAveraging(config, { cohort: 100, clients: 1000, seed: 1 });
    const norms = Array.from({ length: 100 }, (_, i) => (i + 1) / 100);
    for (let round = 0; round < 120; round++)
      server.apply(outcome(round, new Float32Array(1), norms), new Float32Array(1), new Float32Array(0));
    expect(server.clipNorm()).toBeGreaterThan(0.72);
    expect(server.clipNorm()).toBeLessThan(0.88);
  });

  it('moves an adaptive bound by what clients say they have clipped, where only clipped updates come', () => {
    const config = centralDpSchema.parse({
      ...{ name: 'central-dp', noise_multiplier: 0.5, clip_norm: 0.1, clipping: 'adaptive', count_noise: 1 },
    });
    const server = privateAveraging(config, { cohort: 100, clients: 1000, seed: 1 });
    const norms = Array.from({ length: 100 }, (_, i) => (i + 1) / 100);
    for (let round = 0; round < 120; round++) {
      const bound = server.clipNorm();
      const given = outcome(round, new Float32Array(1), norms);
      const reports = given.reports.map((each) => ({
        ...each,
        norm: Math.min(each.norm, bound),
        clipped: each.norm > bound,
      }));
      server.apply({ ...given, reports }, new Float32Array(1), new Float32Array(0));
    }
    expect(server.clipNorm()).toBeGreaterThan(0.42);
    expect(server.clipNorm()).toBeLessThan(0.58);
  });

  it('counts each round by how many clients its cohort was drawn from', () => {
    const config = centralDpSchema.parse({ name: 'central-dp', noise_multiplier: 1 });
    const spent = (drawn: readonly (number | undefined)[]) => {
      const counts = new Map<number, number>();
      const releases = {
        add: (value: number) => counts.set(value, (counts.get(value) ?? 0) + 1),
        counts: () => counts,
      };
      const server = privateAveraging(config, { cohort: 10, clients: 1000, seed: 4, releases });
      for (const [round, drawnFrom] of drawn.entries()) {
        const given = outcome(round, new Float32Array(1), [1]);
        server.apply(
          drawnFrom === undefined ? given : { ...given, drawnFrom },
          new Float32Array(1),
          new Float32Array(0),
        );
      }
      return server.spent();
    };
    const alike = (sampling: number, rounds: number) =>
      epsilonOf({ noiseMultiplier: 1, sampling, rounds }, config.delta);
    expect(spent([])).toBe(0);
    expect(spent([undefined, undefined])).toBe(alike(0.01, 2));
    // All who are there are asked: nobody can hope to have been left out.
    expect(spent([10, 7])).toBe(alike(1, 2));
    const both = spent([1000, 20, 1000]);
    expect(both).toBeGreaterThan(Math.max(alike(0.5, 1), alike(0.01, 2)));
    expect(both).toBeLessThan(alike(0.5, 3));
  });

  it('counts what was given away before a run was killed, whatever the checkpoint says', () => {
    const folder = mkdtempSync(join(tmpdir(), 'plexus-releases-'));
    const file = join(folder, 'privacy.log');
    const config = centralDpSchema.parse({ name: 'central-dp', noise_multiplier: 1 });
    const begun = () => privateAveraging(config, { cohort: 10, clients: 1000, seed: 4, releases: releaseLog(file) });
    const first = begun();
    for (let round = 0; round < 5; round++)
      first.apply(outcome(round, new Float32Array(1), [1]), new Float32Array(1), new Float32Array(0));
    const again = begun();
    expect(again.spent()).toBe(first.spent());
    again.apply(outcome(3, new Float32Array(1), [1]), new Float32Array(1), new Float32Array(0));
    expect(again.spent()).toBe(again.epsilon(6));
    rmSync(file);
    // With noise of the clients' own whoever was asked most often counts.
    const local = () =>
      localPrivacy(averaging(), { ...config, clip_norm: 1 }, { clients: 3, releases: releaseLog(file) });
    const before = local();
    for (const client of [0, 2, 2, 1, 2]) before.noise?.(client);
    expect(before.spent()).toBe(before.epsilon(3));
    expect(local().spent()).toBe(before.epsilon(3));
    rmSync(folder, { recursive: true });
  });

  it('tells what has been spent, and refuses what cannot be', () => {
    const server = privateAveraging(centralDpSchema.parse({ name: 'central-dp', noise_multiplier: 1 }), {
      cohort: 10,
      clients: 1000,
      seed: 1,
    });
    expect(server.epsilon(10)).toBeGreaterThan(0);
    expect(server.epsilon(100)).toBeGreaterThan(server.epsilon(10));
    const adaptive = centralDpSchema.parse({
      name: 'central-dp',
      noise_multiplier: 3,
      clipping: 'adaptive',
      count_noise: 1,
    });
    expect(() => privateAveraging(adaptive, { cohort: 10, clients: 1000, seed: 1 })).toThrow(
      /raise count_noise above 1.5/,
    );
  });
});
