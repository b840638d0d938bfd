import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  dequantiseSum,
  joinSecret,
  keystream,
  levelsFor,
  maskKey,
  maskOf,
  quantise,
  roundingKey,
  SecAggClient,
  SecAggError,
  SecAggServer,
  secAggGraph,
  splitSecret,
  wrongShares,
} from '../../../src/schedulers/federated/privacy/index.ts';
import { createRng } from '../../../src/tensor/index.ts';

const LENGTH = 50;
const ids = (count: number) => Array.from({ length: count }, (_, i) => 3 * i + 1);
const vectorOf = (client: number) => Uint32Array.from({ length: LENGTH }, (_, i) => (client * 1000 + i * 7) % 65_536);
const sumOf = (clients: readonly number[]) =>
  clients.reduce(
    (sum, client) => sum.map((value, i) => value + (vectorOf(client)[i] as number)),
    new Uint32Array(LENGTH),
  );

/** Plays an aggregation through; clients leave before they share, before they send, or before they help to unmask. */
function play(count: number, neighbours: number, leave: (client: number) => 'share' | 'send' | 'unmask' | 'never') {
  const clients = ids(count);
  const graph = secAggGraph(clients, neighbours, createRng(1));
  const terms = { id: 'round 7', length: LENGTH };
  const server = new SecAggServer(terms, graph);
  const all = clients.map((client) => new SecAggClient(client, terms));
  for (const client of all) server.addKeys(client.keys());
  const sharing = all.filter(({ client }) => leave(client) !== 'share');
  for (const client of sharing)
    server.addShares(client.client, client.share(server.neighboursOf(client.client), server.threshold));
  for (const client of sharing) client.receive(server.sharesFor(client.client));
  const sending = sharing.filter(({ client }) => leave(client) !== 'send');
  const seen: Uint32Array[] = [];
  for (const client of sending) {
    const masked = client.mask(vectorOf(client.client));
    seen.push(masked);
    server.addMasked(client.client, masked);
  }
  const helping = sending.filter(({ client }) => leave(client) !== 'unmask');
  const answers = helping.map((client) => client.unmask(server.survivors()));
  return { server, all, seen, answers, expected: sumOf(sending.map(({ client }) => client)), terms };
}

describe('secure aggregation', () => {
  it('makes keys by the thousand, however often garbage is collected in between', async () => {
    // Exporting a generated key as JWK hangs Node 20 for ever if its job is collected meanwhile: within 2,000 keys with so small a heap.
    const script = `
      const { SecAggClient } = await import('./dist/schedulers/federated/privacy/index.js');
      const seen = new Set();
      for (let i = 0; i < 3000; i++) seen.add(Buffer.from(new SecAggClient(i, { id: 'a', threshold: 2, length: 1 }).keys().mask).toString('hex'));
      console.log(seen.size);`;
    const args = ['--max-semi-space-size=1', '--input-type=module', '-e', script];
    const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 30_000, killSignal: 'SIGKILL' });
    expect(stdout).toBe('3000\n');
  });

  it('gives the exact sum of those who sent, whoever leaves and when', () => {
    fc.assert(
      fc.property(fc.integer({ min: 5, max: 14 }), fc.integer({ min: 0, max: 1000 }), (count, seed) => {
        const rng = createRng(seed);
        // At most a quarter leaves; half of the others must be left to help.
        const leaving = new Map(
          ids(count)
            .slice(0, Math.floor(count / 4))
            .map((client) => [client, (['share', 'send', 'unmask'] as const)[rng.integer(3)] ?? 'send']),
        );
        const { server, answers, expected } = play(count, count - 1, (client) => leaving.get(client) ?? 'never');
        expect(server.finish(answers)).toEqual(expected);
      }),
      { numRuns: 12 },
    );
  });

  it('bears that 30 % of the clients leave, with sparse neighbours', () => {
    const { server, answers, expected } = play(40, 20, (client) => (((client - 1) / 3) % 10 < 3 ? 'send' : 'never'));
    expect(server.finish(answers)).toEqual(expected);
  });

  it('shows the server nothing but noise of a single client', () => {
    const { seen, all } = play(6, 5, () => 'never');
    seen.forEach((masked, i) => {
      const vector = vectorOf(all[i]?.client ?? 0);
      const difference = masked.map((value, k) => value - (vector[k] as number));
      expect(new Set(difference).size).toBe(LENGTH);
      // The high bits of what is sent are spread, while those of the vectors are all zero.
      expect(masked.filter((value) => value > 2 ** 31).length).toBeGreaterThan(LENGTH / 5);
    });
  });

  it('says of whom too few shares came', () => {
    const { server, answers } = play(9, 8, () => 'never');
    expect(() => server.finish(answers.slice(0, 3))).toThrow(SecAggError);
    expect(() => server.finish(answers.slice(0, 3))).toThrow(/only 2 of \d+ shares|only 3 of \d+ shares/);
  });

  it('refuses what would give a client away', () => {
    const { all, server, terms } = play(6, 5, () => 'never');
    const client = all[0] as SecAggClient;
    expect(() => client.mask(vectorOf(1))).toThrow(/already/);
    expect(() => client.unmask(server.survivors())).toThrow(/already/);
    expect(() => new SecAggClient(9, terms).share(server.neighboursOf(1).slice(0, 2), 3)).toThrow(/2 neighbours/);
    const fresh = new SecAggClient(9, terms);
    fresh.share(server.neighboursOf(1), 3);
    expect(() => fresh.share(server.neighboursOf(1), 3)).toThrow(/already/);
    expect(() => fresh.masks()).toThrow(/shares of 0 neighbours in aggregation round 7, and needs 3/);
    expect(() => fresh.unmask([4])).toThrow(/gives no shares/);
    const [shares] = server.sharesFor(1);
    if (!shares) throw new Error('no shares');
    const spoilt = { ...shares, sealed: shares.sealed.map((byte, i) => (i === 20 ? byte ^ 1 : byte)) };
    const reader = new SecAggClient(1, terms);
    reader.share(server.neighboursOf(1), server.threshold);
    expect(() => reader.receive([spoilt])).toThrow(/changed on their way/);
    expect(() => server.addMasked(2, vectorOf(2))).toThrow(/not part of/);
    expect(() => server.addMasked(1, vectorOf(1))).toThrow(/twice/);
  });
});

describe('secrets and masks', () => {
  it('any threshold of shares give the secret back, fewer do not', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 1, maxLength: 40 }),
        fc.integer({ min: 1, max: 20 }),
        fc.integer({ min: 1, max: 20 }),
        fc.nat(1000),
        (secret, a, b, seed) => {
          const [threshold, count] = [Math.min(a, b), Math.max(a, b)];
          const shares = splitSecret(secret, count, threshold);
          const rng = createRng(seed);
          const some = [...shares].sort(() => rng.uniform() - 0.5).slice(0, threshold);
          expect(joinSecret(some)).toEqual(secret);
        },
      ),
      { numRuns: 100 },
    );
    const secret = new Uint8Array(16).fill(7);
    expect(joinSecret(splitSecret(secret, 5, 3).slice(0, 2))).not.toEqual(secret);
    expect(() => splitSecret(secret, 3, 4)).toThrow(RangeError);
    expect(() => splitSecret(secret, 256, 4)).toThrow(RangeError);
    const [share] = splitSecret(secret, 2, 2);
    expect(() => joinSecret([share, share] as never)).toThrow(RangeError);
  });

  it('shares that do not fit the others are found where there are enough of those, and nobody is blamed else', () => {
    const liars = fc.uniqueArray(fc.nat(8), { maxLength: 2 });
    const property = fc.property(liars, fc.integer({ min: 2, max: 7 }), fc.nat(1000), (lying, threshold, seed) => {
      const rng = createRng(seed);
      // Three secrets of nine clients; who lies does so of some of them.
      const secrets = Array.from({ length: 3 }, (_, secret) =>
        splitSecret(new Uint8Array(8).fill(seed + secret), 9, threshold).map((share, by) => {
          const lies = lying.includes(by) && (secret === 0 || rng.uniform() < 0.5);
          return {
            by,
            share: lies ? { ...share, bytes: share.bytes.map((byte) => byte ^ (1 + rng.integer(255))) } : share,
          };
        }),
      );
      const found = wrongShares(secrets, threshold);
      // Beyond what the honest shares need there must be as many more as there are liars, and one.
      if (9 - lying.length > threshold + (lying.length > 0 ? lying.length - 1 : 0))
        expect(found).toEqual([...lying].sort((a, b) => a - b));
      for (const client of found) expect(lying).toContain(client);
    });
    fc.assert(property, { seed: 1, numRuns: 300 });
    expect(wrongShares([], 3)).toEqual([]);
  });

  it('masks of other purposes have nothing in common', () => {
    const seed = new Uint8Array(32).fill(1);
    const mask = maskOf(maskKey(seed, 'a'), 1000);
    expect(maskOf(maskKey(seed, 'a'), 1000)).toEqual(mask);
    const other = maskOf(maskKey(seed, 'b'), 1000);
    expect(other.filter((value, i) => value === mask[i]).length).toBeLessThan(3);
    const mean = mask.reduce((sum, value) => sum + value / 1000, 0);
    expect(Math.abs(mean / 2 ** 32 - 0.5)).toBeLessThan(0.05);
  });

  it('sums of quantised vectors are those of the vectors, to the size of a level', () => {
    const count = 20;
    const options = { range: 2, levels: levelsFor(count) };
    const vectors = Array.from({ length: count }, (_, k) => createRng(k).fillNormal(new Float32Array(200), 0, 0.5));
    const sum = new Uint32Array(200);
    vectors.forEach((vector, k) => {
      quantise(vector, options, keystream(roundingKey(createRng(k + 100)))).forEach((value, i) => {
        sum[i] = (sum[i] as number) + value;
      });
    });
    dequantiseSum(sum, count, options).forEach((value, i) => {
      const exact = vectors.reduce((total, vector) => total + Math.min(2, Math.max(-2, vector[i] as number)), 0);
      expect(Math.abs(value - exact)).toBeLessThan(1e-4);
    });
  });
});
