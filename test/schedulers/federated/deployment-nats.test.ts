import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import {
  ControlRequester,
  ControlResponder,
  sendUpdate,
  updateCodec,
  watchConnection,
} from '../../../src/comm/index.ts';
import { gatherRuns, scatterRuns } from '../../../src/schedulers/federated/sent-parts.ts';
import {
  CLIENT_INBOX,
  type ClientCompute,
  type ClientFit,
  type ClientWork,
  clientSubject,
  decodeRuns,
  epsilonOf,
  type RoundCompression,
  RunningTreeSum,
  sendParams,
  updateCompressionSchema,
} from '../../../src/schedulers/index.ts';
import { Federation, type FederationOptions, type Fit } from './deployment-clients.ts';
import { latch } from './latch.ts';

const open: Federation[] = [];
afterEach(async () => {
  for (const federation of open.splice(0)) await federation.close();
});
const federation = async (options: FederationOptions): Promise<Federation> => {
  const made = await Federation.start(options);
  open.push(made);
  return made;
};

/** An update that is different for each client, and not the same when added up in another order. */
const updateOf = (client: number, size: number) =>
  Float32Array.from({ length: size }, (_, i) => Math.fround(Math.sin(i + 7 * client) * 10 ** (client % 5)));
const honest: Fit = async (start, { client }) => ({ update: updateOf(client, start.length) });
const treeSum = (clients: readonly number[], all: number, size: number) => {
  const sum = new RunningTreeSum(all);
  for (let i = 0; i < all; i++)
    sum.add(i + 1, clients.includes(i) ? updateOf(i, size).map((value) => value * (i + 1)) : null);
  return sum.total();
};
/** A digest: comparing long arrays one by one takes seconds. */
const bits = (values: Float32Array | null) =>
  createHash('sha256')
    .update(values ? new Uint8Array(values.buffer) : '')
    .digest('hex');
const names = ['a', 'b', 'c', 'd', 'e'];

describe('clients over NATS', () => {
  it('add up to the bits of the tree, in whatever order they answer, with vectors larger than messages', async () => {
    // More than a message of the server can hold.
    const made = await federation({ params: 300_000 });
    const answered: number[] = [];
    let last: Promise<void> = Promise.resolve();
    for (const name of names) {
      await made.client(name, async (start, about) => {
        // The later clients answer first.
        const before = last;
        const done = latch();
        last = done.opened;
        if (about.client < 4) await before;
        answered.push(about.client);
        done.open();
        expect(start[5]).toBe(2);
        return honest(start, about);
      });
    }
    const { sum, reports } = await made.round(0, new Float32Array(300_000).fill(2));
    expect(reports.map(({ problem }) => problem)).toEqual([null, null, null, null, null]);
    expect(bits(sum)).toBe(bits(treeSum([0, 1, 2, 3, 4], 5, 300_000)));
    expect(made.server.bytes).toEqual({ down: 6_000_000, up: 6_000_000 });
    expect(answered).toHaveLength(5);
    const each = await made.server.each(
      made.published(new Float32Array(300_000).fill(2), new Float32Array(0), {}),
      made.fits(1),
    );
    expect(each.map(({ report }) => report.problem)).toEqual([null, null, null, null, null]);
    expect(bits(made.server.add(each))).toBe(bits(sum));
  });

  it.each([
    [
      'numbers that are none',
      async (start: Float32Array) => ({ update: start.map(() => Number.NaN) }),
      'number 0 of its update is NaN',
    ],
    ['too few numbers', async () => ({ update: new Float32Array(3) }), 'its update has 3 numbers, 50 were expected'],
    [
      'an absurd norm',
      async (start: Float32Array) => ({ update: start.map(() => 1e30) }),
      'the norm of its update is 7.071e+30',
    ],
    [
      'far too many bytes',
      async (start: Float32Array) => ({ update: start.slice(), kept: { own: new Float32Array(1e6) } }),
      'it sends 4000200 bytes, which is too much',
    ],
  ] as [string, Fit, string][])(
    'one that sends %s is quarantined, and the others are added up',
    async (_, fit, problem) => {
      const made = await federation({ params: 50, wanted: problem.includes('bytes') ? ['own'] : [] });
      const own: Fit = async (start, about) => ({
        ...(await honest(start, about)),
        kept: { own: new Float32Array(50) },
      });
      for (const name of names) await made.client(name, name === 'c' ? fit : own);
      const { sum, reports } = await made.round(0);
      expect(reports[2]?.problem).toContain(problem);
      expect(sum).toEqual(treeSum([0, 1, 3, 4], 5, 50));
      expect(made.news.at(-1)).toMatchObject({
        what: 'quarantined',
        name: 'c',
        number: 2,
        reason: reports[2]?.problem,
      });
      expect(made.roster.numbers()).toEqual([0, 1, 3, 4]);
    },
  );

  it('one whose training diverged says so, and is no liar', async () => {
    const made = await federation({ params: 50 });
    const fit: ClientCompute['fit'] = async ({ params }, { client }) => {
      const report = { client, examples: 10, steps: 3, weight: 1, loss: Number.NaN, norm: 0, kept: {}, ms: 1 };
      return { update: params, report: { ...report, problem: 'its training diverged: the loss is NaN' } };
    };
    await made.client('a', honest, { fit });
    await made.client('b', honest);
    const { sum, reports } = await made.round(0);
    expect(reports.map(({ problem }) => problem)).toEqual(['its training diverged: the loss is NaN', null]);
    expect(sum).toEqual(treeSum([1], 2, 50));
    expect(made.roster.quarantined).toBe(0);
  });

  it('one that bounds what it tells answers under noise, without its loss, until that is spent', async () => {
    const made = await federation({ params: 50 });
    await made.client('a', honest, {}, { max_epsilon: 9, delta: 1e-5 });
    const asked = async (round: number, more: Partial<ClientFit>) => {
      made.server.begin();
      const start = made.published(new Float32Array(50), new Float32Array(0), {});
      const [answer] = await made.server.each(start, [{ ...(made.fits(round)[0] as ClientFit), ...more }]);
      return answer?.report;
    };
    expect((await asked(0, {}))?.problem).toContain('would tell epsilon Infinity of its examples');
    const noisy = { clipNorm: 1, noise: 3 };
    let rounds = 0;
    while (epsilonOf({ noiseMultiplier: 1.5, sampling: 1, rounds: rounds + 1 }, 1e-5) <= 9) {
      const report = await asked(rounds, noisy);
      expect([report?.problem, report?.loss]).toEqual([null, Number.NaN]);
      rounds += 1;
    }
    expect(rounds).toBeGreaterThan(1);
    expect((await asked(rounds, noisy))?.problem).toMatch(/would tell epsilon [\d.]+ .* max_epsilon is 9$/);
    // Whoever starts again with the same folder has spent the same, and what it is asked besides would be under no noise.
    made.server.begin();
    const start = made.published(new Float32Array(50), new Float32Array(0), {});
    await expect(made.server.ask(start, [{ client: 0, round: 0 }], 'batch-statistics', {})).rejects.toThrow(
      'its answer to "batch-statistics" would be under no noise',
    );
    expect(made.roster.quarantined).toBe(0);
  });

  it('one that tells no loss where there is no noise is quarantined', async () => {
    const made = await federation({ params: 50 });
    const fit: ClientCompute['fit'] = async ({ params }, { client }) => {
      const report = { client, examples: 10, steps: 3, weight: 1, loss: Number.NaN, norm: 0, kept: {}, ms: 1 };
      return { update: params, report: { ...report, problem: null } };
    };
    await made.client('a', honest, { fit });
    const { reports } = await made.round(0);
    expect(reports[0]?.problem).toMatch(/its answer makes no sense|its loss is NaN/);
    expect(made.roster.quarantined).toBe(1);
  });

  it('one above the norm bound is left out, and quarantined the third time', async () => {
    const made = await federation({ params: 50, maxNorm: 1 });
    await made.client('a', async (start) => ({ update: start.map(() => 1) }));
    await made.client('b', async (start) => ({ update: start.map(() => 0.1) }));
    for (let round = 0; round < 3; round++) {
      expect(made.roster.numbers()).toEqual([0, 1]);
      const { sum, reports } = await made.round(round);
      expect(reports[0]?.problem).toContain('the norm of its update is 7.071, the bound 1');
      expect(sum).toEqual(new Float32Array(50).fill(Math.fround(0.1) * 2));
    }
    expect(made.roster.numbers()).toEqual([1]);
  });

  it('one that does not clip its update as it was to is quarantined; of the others it is known who has clipped', async () => {
    const made = await federation({ params: 50 });
    const norms = { a: 4, b: 0.5, c: 2 };
    for (const [name, norm] of Object.entries(norms)) {
      const fit: ClientCompute['fit'] = async ({ params }, { client }) => {
        // (c sends it as it is.)
        const sent = name === 'c' ? norm : Math.min(norm, 1);
        const report = { client, examples: 10, steps: 3, weight: 1, loss: 1, norm, kept: {}, ms: 1, problem: null };
        return { update: params.map(() => sent / Math.sqrt(50)), report };
      };
      await made.client(name, honest, { fit });
    }
    made.server.begin();
    const start = made.published(new Float32Array(50), new Float32Array(0), {});
    const fits = made.fits(0).map((fit) => ({ ...fit, clipNorm: 1 }));
    const reports = (await made.server.each(start, fits)).map(({ report }) => report);
    expect(reports.map(({ clipped }) => clipped)).toEqual([true, false, undefined]);
    expect(reports.map(({ problem }) => problem)).toEqual([
      null,
      null,
      'the norm of its update is 2.000, and it was to be clipped to 1.000',
    ]);
    expect(made.roster.numbers()).toEqual([0, 1]);
  });

  it('a round ends by its deadline, without those that have not answered; what they send later is nobody’s', async () => {
    const made = await federation({ params: 50, deadlineMs: 400 });
    const late = latch();
    let asked = 0;
    await made.client('a', honest);
    await made.client('b', async (start, about) => {
      asked += 1;
      if (about.round === 0) await late.opened;
      return honest(start, about);
    });
    const began = performance.now();
    const { sum, reports } = await made.round(0);
    expect(performance.now() - began).toBeLessThan(2000);
    expect(reports[1]?.problem).toBe('no answer within the 0.4 s of a round');
    expect(sum).toEqual(treeSum([0], 2, 50));
    late.open();
    // The next round is not confused by it.
    const next = await made.round(1);
    expect(next.reports.map(({ problem }) => problem)).toEqual([null, null]);
    expect(next.sum).toEqual(treeSum([0, 1], 2, 50));
    expect(asked).toBe(2);
  });

  it('one that leaves in the middle of a round is named at once', async () => {
    const made = await federation({ params: 50, deadlineMs: 30_000 });
    await made.client('a', honest);
    const [asked, go] = [latch(), latch()];
    const leaver = await made.client('b', async (start, about) => {
      asked.open();
      await go.opened;
      return honest(start, about);
    });
    const round = made.round(0);
    await asked.opened;
    const left = leaver.stop();
    const { sum, reports } = await round;
    expect(reports[1]?.problem).toBe('it left: stopped by the test');
    expect(sum).toEqual(treeSum([0], 2, 50));
    go.open();
    await left;
  });

  it('an answer of another round is refused, and its client quarantined', async () => {
    const made = await federation({ params: 50 });
    await made.client('a', honest);
    const liar = await made.client('b', honest);
    await made.round(0);
    const { id } = made.roster.live(1) ?? { id: '' };
    await liar.stop();
    // Somebody who answers in its place with what it was asked for before.
    const nats = await made.connect();
    const known = JSON.parse(readFileSync(`${made.folder}/b/identity.json`, 'utf8')) as {
      id: string;
      token: string;
    };
    const told = { ...known, name: 'b', session: made.server.session };
    const requester = new ControlRequester(nats);
    const ready = { type: 'ready', ...told, examples: 10, params: 50, state: 0, secret: 'a'.repeat(64) };
    await requester.request('plexus.test.fed.server.in', ready, { deadlineMs: 2000 });
    const responder = new ControlResponder(nats, clientSubject('test', 'b', id), () => ({
      ...{ session: made.server.session, round: 0, version: 1, steps: 1, loss: 1, ms: 1, keeps: false, problem: null },
      update: { parcel: { bytes: new Uint8Array(200) }, vectors: [{ name: 'update', length: 50 }], encoded: null },
    }));
    const { sum, reports } = await made.round(1);
    expect(reports[1]?.problem).toBe(
      'it answers with an update of round 0, version 1; round 1, version 2 was asked for',
    );
    expect(sum).toEqual(treeSum([0], 2, 50));
    expect(made.roster.numbers()).toEqual([0]);
    responder.close();
    requester.close();
  });

  it('the same request twice is one fit', async () => {
    const made = await federation({ params: 50 });
    let fits = 0;
    await made.client('a', async (start, about) => {
      fits += 1;
      // Longer than the requester waits before it repeats itself.
      await new Promise((resolve) => setTimeout(resolve, 700));
      return honest(start, about);
    });
    const { sum } = await made.round(0);
    expect(sum).toEqual(treeSum([0], 1, 50));
    expect(fits).toBe(1);
  });

  it('a new server finds its clients again, with their numbers and what they keep', async () => {
    const made = await federation({
      ...{ params: 50, wanted: ['own'], leaseMs: 1000 },
      kept: () => ({ now: keptRound, durable: keptRound }),
    });
    let keptRound: number | null = null;
    const fit: Fit = async (start, { client, kept, round }) => ({
      update: updateOf(client, start.length),
      kept: { own: Float32Array.from({ length: 50 }, (_, i) => (kept.own?.[i] ?? 0) + round + 1) },
    });
    await made.client('b', fit);
    await made.client('a', fit);
    const first = await made.round(0);
    expect(first.reports.map(({ kept }) => kept.own?.[0])).toEqual([1, 1]);
    keptRound = 0;
    await made.server.close('the server goes away');
    await made.roster.close();
    await made.open();
    expect(await made.roster.enough(2, 10_000, AbortSignal.timeout(10_000), () => undefined)).toBe(true);
    expect(made.roster.numbers().map((number) => made.roster.nameOf(number))).toEqual(['a', 'b']);
    const second = await made.round(1);
    expect(second.reports.map(({ kept }) => kept.own?.[0])).toEqual([3, 3]);
    // One that does not count changes nothing for the next.
    const again = await made.round(1);
    expect(again.reports.map(({ kept }) => kept.own?.[0])).toEqual([3, 3]);
  });

  it('get parameters and send updates in the bytes of a codec, of which what makes no sense is nobody’s', async () => {
    const config = updateCompressionSchema.parse({ name: 'int8', down: 'int8' });
    // The places in the middle stay with clients.
    const compression: RoundCompression = {
      config,
      sent: [
        [0, 300],
        [400, 1000],
      ],
    };
    const codec = updateCodec({ keep: 'all', values: 'int8' });
    const made = await federation({ params: 1000, compression });
    const params = updateOf(3, 1000);
    const sent = sendParams(params, compression);
    const seen: Float32Array[] = [];
    const coded =
      (change: (bytes: Uint8Array) => Uint8Array | undefined): Partial<ClientCompute>['fit'] =>
      async (start, work) => {
        seen.push(start.params);
        const update = updateOf(work.client, 1000).fill(0, 300, 400);
        const values = gatherRuns(update, compression.sent);
        const { bytes } = sendUpdate(codec, values, { seed: 0, left: null });
        scatterRuns(values, compression.sent, update);
        const about = { client: work.client, examples: 10, steps: 1, weight: 1, loss: 1, norm: 1, kept: {}, ms: 1 };
        const encoded = change(bytes);
        return { update, report: { ...about, problem: null, ...(encoded ? { encoded } : {}) } };
      };
    const kinds = [
      (bytes: Uint8Array) => bytes,
      (bytes: Uint8Array) => bytes,
      (bytes: Uint8Array) => bytes.subarray(4),
      () => undefined,
    ];
    for (const [i, change] of kinds.entries()) await made.client(names[i] as string, honest, { fit: coded(change) });
    made.server.begin();
    const start = made.server.publish(sent.params, new Float32Array(0), {}, sent);
    const { sum, reports } = await made.server.sum(start, made.fits(0));
    expect(reports.map(({ problem }) => problem)).toEqual([
      null,
      null,
      expect.stringMatching(/^its update: an update of 900 values takes \d+ bytes with this codec, but \d+ came/),
      'its update is not written by the codec that was asked for',
    ]);
    expect(seen).toHaveLength(4);
    for (const each of seen) expect(each).toEqual(sent.params);
    const tree = new RunningTreeSum(4);
    for (let i = 0; i < 4; i++) {
      const update = updateOf(i, 1000).fill(0, 300, 400);
      decodeRuns(codec, codec.encode(gatherRuns(update, compression.sent), 0), compression.sent, update);
      tree.add(i + 1, i < 2 ? update.map((value) => value * (i + 1)) : null);
    }
    expect(sum).toEqual(tree.total());
    // A quarter of the 900 places, a scale for each 256, and the 100 others as they are, on the way down only.
    const encoded = codec.typicalBytes(900);
    expect(encoded).toBeLessThan(950);
    expect(made.server.bytes).toEqual({ down: 4 * (encoded + 400), up: 2 * encoded + (encoded - 4) });
  });

  it('draw the noise that they are asked for from secrets of their own, never the same twice', async () => {
    const made = await federation({ params: 50 });
    const works: ClientWork[] = [];
    await made.client('a', honest, {
      fit: async ({ params }, work) => {
        works.push(work);
        const { update } = await honest(params, work);
        const about = {
          client: 0,
          examples: 10,
          steps: 1,
          weight: 1,
          loss: 1,
          norm: 1,
          kept: {},
          ms: 1,
          problem: null,
        };
        return { update, report: about };
      },
    });
    const start = made.published(new Float32Array(50), new Float32Array(0), {});
    for (const round of [0, 0, 1]) {
      made.server.begin();
      // A server that would like to know the noise.
      await made.server.each(
        start,
        made.fits(round).map((fit) => ({ ...fit, noise: 0.2, noiseSecret: 'known' })),
      );
    }
    expect(works.map(({ noise }) => noise)).toEqual([0.2, 0.2, 0.2]);
    const secrets = works.map(({ noiseSecret }) => noiseSecret ?? '');
    for (const secret of secrets) expect(secret).toMatch(/^[0-9a-f]{32}$/);
    expect(new Set(secrets).size).toBe(3);
  });

  it('are asked about their data, and by number for their loss', async () => {
    const made = await federation({ params: 50 });
    await made.client('a', honest);
    await made.client('b', honest);
    made.server.begin();
    const start = made.published(new Float32Array(50), new Float32Array(0), {});
    const config = { eligible: Uint8Array.of(1, 0) };
    expect(await made.server.ask(start, made.fits(0), 'top-gradients', config)).toEqual([
      { task: 'top-gradients', config, client: 0 },
      { task: 'top-gradients', config, client: 1 },
    ]);
    expect(await made.server.evaluate(start, 'train', new Int32Array(0), 1)).toEqual({
      loss: 20,
      examples: 10,
      correct: 5,
    });
    // What is measured of all of them does without those who do not say.
    const loss: ClientCompute['loss'] = async (_, __, held) => ({ loss: 1, examples: 4, correct: held ? 3 : 5 });
    await made.client('c', honest, { loss });
    await made.client('d', honest, {}, { min_noise: 1 });
    expect(made.roster.numbers()).toEqual([0, 1, 2, 3]);
    const { signal } = new AbortController();
    const held = await made.server.measure(start, [0, 2, 3], { round: 1, held: true, signal });
    expect(held).toEqual([{ loss: 20, examples: 10, correct: 5 }, { loss: 1, examples: 4, correct: 3 }, null]);
    // (Five of four are right, says c.)
    expect(await made.server.measure(start, [2, 9], { round: 1, held: false, signal })).toEqual([null, null]);
    await expect(made.server.ask(start, made.fits(0).slice(0, 2), 'read-files', {})).rejects.toThrow(
      /client [ab] did not answer a question of round 0: the question "read-files" is not on the allow-list/,
    );
  });

  it('need no more than what the example configuration of the server permits', async () => {
    const own = mkdtempSync(join(tmpdir(), 'plexus-nats-conf-'));
    const passwords = { COORDINATOR_PASSWORD: 'coordinators', WORKER_PASSWORD: 'workers', CLIENT_PASSWORD: 'clients' };
    Object.assign(process.env, passwords);
    try {
      const text = readFileSync(new URL('../../../configs/cluster/nats-server.conf', import.meta.url), 'utf8');
      const configFile = join(own, 'nats-server.conf');
      writeFileSync(configFile, text.replace('"./nats"', JSON.stringify(join(own, 'js'))));
      const made = await federation({
        params: 20_000,
        configFile,
        passwords: { coordinator: passwords.COORDINATOR_PASSWORD, client: passwords.CLIENT_PASSWORD },
      });
      const denied: string[] = [];
      await made.client('a', honest);
      await made.client('b', honest);
      // Blobs in both directions.
      const { sum } = await made.round(0);
      expect(bits(sum)).toBe(bits(treeSum([0, 1], 2, 20_000)));
      const client = await made.connect(CLIENT_INBOX);
      watchConnection(client, { denied: (reason) => denied.push(/"([^"]+)"/.exec(reason)?.[1] ?? reason) });
      const forbidden = [
        'plexus.test.fed.client.a.x',
        '_INBOX.x',
        '$JS.API.INFO',
        'plexus.test.agent.x',
        'plexus.test.0.1',
      ];
      for (const subject of forbidden) client.publish(subject, '{}');
      client.subscribe('_INBOX.>', { callback: () => undefined });
      await client.flush();
      await client.flush();
      expect(denied.sort()).toEqual([...forbidden, '_INBOX.>'].sort());
    } finally {
      for (const name of Object.keys(passwords)) delete process.env[name];
      // (The server of this test ends after it.)
      await Promise.all(open.splice(0).map((each) => each.close()));
      rmSync(own, { recursive: true, force: true });
    }
  });
});
