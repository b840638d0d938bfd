import { afterEach, describe, expect, it, vi } from 'vitest';
import {
  type Collected,
  type Collection,
  defaultAllowList,
  SecAggClient,
  SecureMember,
  secureCollector,
  UnreadableShares,
} from '../../../src/schedulers/index.ts';
import { createRng } from '../../../src/tensor/index.ts';
import { Federation, type FederationOptions, type Fit } from './deployment-clients.ts';
import { latch } from './latch.ts';

const SIZE = 400;
const SEED = 1;
const config = { name: 'secagg+', neighbours: 4, range: 8 } as const;
const names = ['a', 'b', 'c', 'd', 'e'];

const open: Federation[] = [];
afterEach(async () => {
  vi.restoreAllMocks();
  for (const federation of open.splice(0)) await federation.close();
});
const federation = async (options: Partial<FederationOptions> = {}): Promise<Federation> => {
  const made = await Federation.start({ params: SIZE, secure: { config, seed: SEED }, ...options });
  open.push(made);
  return made;
};

const updateOf = (client: number) => createRng(client).fillNormal(new Float32Array(SIZE), 0, 0.3);
const honest: Fit = async (_, { client }) => ({ update: updateOf(client) });

/** Begins a round of all who are there and trains them. */
async function trained(made: Federation, round: number) {
  made.server.begin();
  const fits = made.fits(round);
  const largest = Math.max(...fits.map(({ weight }) => weight));
  const members = fits.map(({ client }) => client);
  const collection = await (made.server.collector as NonNullable<Federation['server']['collector']>).begin({
    ...{ round, members, largest, length: SIZE },
  });
  const start = made.published(new Float32Array(SIZE), new Float32Array(0), {});
  const updates = await made.server.each(start, fits);
  return { collection, updates, problems: updates.map(({ report }) => report.problem) };
}

async function summed(made: Federation, round: number): Promise<Collected & { problems: (string | null)[] }> {
  const { collection, updates, problems } = await trained(made, round);
  return { ...(await collection.collect({ updates, clipNorm: null })), problems };
}

/** What a simulation has, of whose clients these send an update. */
async function simulated(round: number, sending: readonly number[], of = 5): Promise<Float32Array | null> {
  const members = Array.from({ length: of }, (_, i) => i);
  // (The sum does not depend on who is whose neighbour.)
  const collection: Collection = await secureCollector({ config: { name: 'secagg', range: 8 }, seed: SEED }).begin({
    ...{ round, members, largest: of, length: SIZE },
  });
  const updates = sending.map((client) => ({
    update: updateOf(client),
    report: {
      ...{ client, examples: 10, steps: 1, weight: client + 1, loss: 1, norm: 1, kept: {}, ms: 1, problem: null },
    },
  }));
  const { sum, failure } = await collection.collect({ updates, clipNorm: null });
  expect(failure).toBeNull();
  return sum;
}

describe('secure aggregation with clients over NATS', () => {
  it('has the bits of a simulation, and shows the server nothing but noise of each client', async () => {
    const seen = new Map<number, Uint32Array>();
    const made = await federation({ onArrival: (client, masked) => seen.set(client, masked.slice()) });
    for (const name of names) await made.client(name, honest);
    for (const round of [0, 1]) {
      const { sum, failure, weight, problems } = await summed(made, round);
      expect(failure).toBeNull();
      expect(problems).toEqual([null, null, null, null, null]);
      expect(weight).toBe(15);
      expect(sum).toEqual(await simulated(round, [0, 1, 2, 3, 4]));
      expect([...seen.keys()]).toEqual([0, 1, 2, 3, 4]);
      for (const numbers of seen.values()) {
        // Spread over the whole ring, where levels of five clients are below 2^27.
        expect(Math.abs(numbers.reduce((mean, value) => mean + value / SIZE, 0) / 2 ** 31 - 1)).toBeLessThan(0.2);
        expect(new Set(numbers).size).toBe(SIZE);
      }
      seen.clear();
    }
    // Vectors, and what hides them: keys and shares of five clients with four neighbours each, and shares that were told.
    const { down, up } = made.server.bytes;
    expect(down).toBe(5 * 4 * SIZE + 5 * (4 * 64 + 4 * 93) + 5 * 4 * 5);
    expect(up).toBeGreaterThanOrEqual(5 * 4 * SIZE + 5 * (64 + 4 * 93) + 3 * 4 * 33);
  });

  it('does without clients that leave while they train, and after they have sent their vectors', async () => {
    // Each has six neighbours, of whom four are needed.
    const made = await federation({ secure: { config: { name: 'secagg', range: 8 }, seed: SEED } });
    const clients = [];
    const [begun, go] = [latch(), latch()];
    for (const name of [...names, 'f', 'g'])
      clients.push(
        await made.client(name, async (start, about) => {
          if (about.client === 1) {
            begun.open();
            await go.opened;
          }
          return honest(start, about);
        }),
      );
    const round = trained(made, 0);
    await begun.opened;
    const left = clients[1]?.stop();
    const { collection, updates, problems } = await round;
    expect(problems).toEqual([null, 'it left: stopped by the test', null, null, null, null, null]);
    await clients[3]?.stop();
    const { sum, failure } = await collection.collect({ updates, clipNorm: null });
    go.open();
    await left;
    expect(failure).toBeNull();
    expect(sum).toEqual(await simulated(0, [0, 2, 3, 4, 5, 6], 7));
    const next = await summed(made, 1);
    expect(next.failure).toBeNull();
    expect(next.problems).toEqual([null, null, null, null, null]);
  });

  it('says of whom too few shares came, and goes on with the next round', async () => {
    const made = await federation({ deadlineMs: 3000 });
    const clients = [];
    for (const name of names) clients.push(await made.client(name, honest));
    const { collection, updates } = await trained(made, 0);
    for (const at of [0, 1, 2]) await clients[at]?.stop();
    const { sum, failure } = await collection.collect({ updates, clipNorm: null });
    expect(sum).toBeNull();
    expect(failure).toMatch(/only [012] of 3 shares of the seed of client \d came/);
    for (const name of ['a', 'b', 'c']) await made.client(name, honest);
    const again = await summed(made, 0);
    expect(again.sum).toEqual(await simulated(0, [0, 1, 2, 3, 4]));
  });

  it('leaves clients out whose change is beyond the range or the bound, who say so themselves', async () => {
    const made = await federation({ maxNorm: 100 });
    const large: Fit = async () => ({ update: new Float32Array(SIZE).fill(9) });
    for (const name of names) await made.client(name, name === 'c' ? large : honest);
    const { sum, problems } = await summed(made, 0);
    expect(problems[2]).toBe('its update changes a value by 9.000, the range of secure aggregation is 8');
    expect(sum).toEqual(await simulated(0, [0, 1, 3, 4]));
    expect(made.roster.numbers()).toEqual([0, 1, 2, 3, 4]);
  });

  it('tells no norm where updates are under noise of the clients\u2019 own', async () => {
    // (All of these updates say that their norm is 1.)
    const made = await federation({ maxNorm: 0.5 });
    for (const name of names) await made.client(name, honest);
    const told = async (noise: number | null) => {
      made.server.begin();
      const fits = made.fits(0).map((fit) => ({ ...fit, clipNorm: 8, noise }));
      const members = fits.map(({ client }) => client);
      await made.server.collector?.begin({ round: 0, members, largest: 5, length: SIZE });
      const start = made.published(new Float32Array(SIZE), new Float32Array(0), {});
      const answers = await made.server.each(start, fits);
      return answers.map(({ report }) => report.problem);
    };
    expect(await told(null)).toEqual(Array(5).fill('the norm of its update is 1.000, the bound 0.5'));
    expect(await told(2)).toEqual(Array(5).fill('it has no update; its own log says why'));
  });

  it('notices a sum that nobody can have sent, and quarantines who sends no masked vector', async () => {
    const made = await federation();
    const kinds: Record<string, object> = {
      // Integers of the ring at random in place of a vector under its masks.
      c: { mask: async () => new Float32Array(Uint32Array.from({ length: SIZE }, () => 2 ** 32 - 1).buffer) },
      e: { mask: async () => new Float32Array(3) },
    };
    for (const name of names) await made.client(name, honest, kinds[name] ?? {});
    const { sum, failure, problems } = await summed(made, 0);
    expect(problems).toEqual([null, null, null, null, `its update has 3 numbers, ${SIZE} were expected`]);
    expect(sum).toBeNull();
    expect(failure).toMatch(/number \d+ of the sum of 4 clients is one that they cannot have sent/);
    expect(made.roster.numbers()).toEqual([0, 1, 2, 3]);
  });

  /** Nine clients, each with eight neighbours, of whom five are needed. */
  const nine = async () => {
    const made = await federation({ secure: { config: { name: 'secagg', range: 8 }, seed: SEED } });
    for (const name of 'abcdefghi') await made.client(name, honest);
    return made;
  };
  const all = [0, 1, 2, 3, 4, 5, 6, 7, 8];
  const without = (client: number) => all.filter((other) => other !== client);
  const garbled = (bytes: Uint8Array) => bytes.map((byte, i) => (i === bytes.length - 1 ? byte ^ 1 : byte));

  it('quarantines who seals shares that most of its neighbours cannot read', async () => {
    const expected = await simulated(0, without(2), 9);
    const share = SecAggClient.prototype.share;
    vi.spyOn(SecAggClient.prototype, 'share').mockImplementation(function (this: SecAggClient, ...given) {
      const shares = share.apply(this, given);
      return this.client === 2 ? shares.map((each) => ({ ...each, sealed: garbled(each.sealed) })) : shares;
    });
    const made = await nine();
    const first = await summed(made, 0);
    expect(first.sum).toBeNull();
    for (const client of without(2))
      expect(first.problems[client]).toBe(
        'the shares of client 2 cannot be read: they were changed on their way, or sealed wrongly',
      );
    expect(made.news.at(-1)).toMatchObject({ what: 'quarantined', name: 'c' });
    expect(made.news.at(-1)).toMatchObject({ reason: expect.stringMatching(/^[5-8] of its 8 neighbours cannot read/) });
    const second = await summed(made, 0);
    expect(second.problems).toEqual(Array(8).fill(null));
    expect(second.sum).toEqual(expected);
  });

  it('quarantines who has keys with which nothing is secret, and does without it', async () => {
    const expected = await simulated(0, [0, 1, 3, 5, 6, 7, 8], 9);
    const keys = SecAggClient.prototype.keys;
    vi.spyOn(SecAggClient.prototype, 'keys').mockImplementation(function (this: SecAggClient) {
      const own = keys.call(this);
      // The point of order one, and one of order four.
      if (this.client === 2) return { ...own, cipher: new Uint8Array(32) };
      if (this.client === 4) return { ...own, mask: new Uint8Array(32).map((_, i) => (i === 0 ? 1 : 0)) };
      return own;
    });
    const made = await nine();
    const { sum, failure, problems } = await summed(made, 0);
    const bad = 'it has public keys with which nothing can be kept secret';
    expect(problems).toEqual(all.map((client) => (client === 2 || client === 4 ? bad : null)));
    expect(failure).toBeNull();
    expect(sum).toEqual(expected);
    expect(made.roster.quarantined).toBe(2);
  });

  it('does not believe a few who say so of another', async () => {
    const expected = [await simulated(0, [3, 4, 5, 6, 7, 8], 9), await simulated(1, [3, 4, 5, 6, 7, 8], 9)];
    const receive = SecAggClient.prototype.receive;
    vi.spyOn(SecAggClient.prototype, 'receive').mockImplementation(function (this: SecAggClient, shares) {
      if (this.client < 3) throw new UnreadableShares([8]);
      receive.call(this, shares);
    });
    const made = await nine();
    for (const round of [0, 1]) {
      const { sum, problems } = await summed(made, round);
      expect(problems.map((problem) => problem === null)).toEqual(all.map((client) => client >= 3));
      expect(sum).toEqual(expected[round]);
    }
    expect(made.roster.quarantined).toBe(0);
  });

  it('finds out who gives wrong shares, and has the right sum all the same', async () => {
    const rounds = Array.from({ length: 40 }, (_, round) => round);
    const expected: (Float32Array | null)[] = [];
    for (const round of rounds) expected.push(await simulated(round, all, 9));
    const unmask = SecAggClient.prototype.unmask;
    vi.spyOn(SecAggClient.prototype, 'unmask').mockImplementation(function (this: SecAggClient, survivors) {
      const answer = unmask.call(this, survivors);
      if (this.client !== 6) return answer;
      const shares = answer.shares.map((each) => ({
        ...each,
        share: { ...each.share, bytes: garbled(each.share.bytes) },
      }));
      return { ...answer, shares };
    });
    const made = await nine();
    // (Two of three times its shares are among the first six answers, which are enough.)
    for (const round of rounds) {
      if (made.roster.quarantined > 0) break;
      const { sum, failure } = await summed(made, round);
      expect(failure).toBeNull();
      expect(sum).toEqual(expected[round]);
    }
    expect(made.news.at(-1)).toMatchObject({
      what: 'quarantined',
      name: 'g',
      reason: 'the shares that it gave do not fit those of the others',
    });
  });

  it('a server that asks for updates as they are, where they were to be masked, gets none', async () => {
    const made = await federation({ secure: null, masked: true });
    for (const name of names) await made.client(name, honest);
    const { sum, reports } = await made.round(0);
    expect(sum).toBeNull();
    for (const { problem } of reports) expect(problem).toBe('this run is to mask updates, and this one would not be');
  });
});

describe('a client in secure aggregations', () => {
  const about = { session: '', round: 2, client: 1 };
  const member = (client = 1) => new SecureMember(defaultAllowList(), SIZE, client);
  const others = [2, 3, 4].map((client) => ({
    client,
    ...member(client).keys({ type: 'keys', ...about, client, aggregation: 'x' }),
  }));
  const masking = { aggregation: 'x', shares: [], members: 4, range: 8, share: 1, maxNorm: null };

  it('refuses what would give it away', () => {
    const own = member();
    expect(() => own.unmask({ type: 'unmask', ...about, aggregation: 'x', survivors: [1, 2] })).toThrow(/no keys of/);
    own.keys({ type: 'keys', ...about, aggregation: 'x' });
    expect(() => own.keys({ type: 'keys', ...about, aggregation: 'x' })).toThrow(/given its keys/);
    const ask = { type: 'shares', ...about, aggregation: 'x', threshold: 2, neighbours: others } as const;
    expect(() => own.shares({ ...ask, neighbours: others.slice(0, 1) })).toThrow(
      /1 others to share masks with, fewer than the 2 .* \(min_neighbours\)/,
    );
    expect(() => own.shares({ ...ask, neighbours: [...others, { ...others[0], client: 1 } as never] })).toThrow(
      /twice/,
    );
    expect(() => own.shares({ ...ask, threshold: 1 })).toThrow(/more than half/);
    expect(own.shares(ask).map(({ to }) => to)).toEqual([2, 3, 4]);
    expect(() => own.shares(ask)).toThrow(/already/);
    // Nobody else shared: a vector under its own mask alone would be seen by whoever takes that off.
    expect(() => own.masking(about, masking, new Float32Array(SIZE), 1)).toThrow(/shares of 0 neighbours/);
    expect(() => own.masking(about, { ...masking, maxNorm: 1 }, new Float32Array(SIZE), 2)).toThrow(/bound 1/);
    expect(() => own.unmask({ type: 'unmask', ...about, aggregation: 'x', survivors: [2, 3] })).toThrow(
      /not in the sum/,
    );
  });
});
