import { afterEach, describe, expect, it } from 'vitest';
import {
  AsyncDeployment,
  type AsyncDeploymentOptions,
  type ClientCompute,
  fedbuff,
  RoundsFailed,
} from '../../../src/schedulers/index.ts';
import { Federation, type FederationOptions, type Fit } from './deployment-clients.ts';
import { latch } from './latch.ts';

const open: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close();
});

/** Fifty parameters, and a server that makes a version of two answers. */
async function deployed(
  clients: Readonly<Record<string, Fit>>,
  { stop = new AbortController(), ...own }: Partial<AsyncDeploymentOptions> & { readonly stop?: AbortController } = {},
  options: Partial<FederationOptions> = {},
) {
  const made = await Federation.start({ params: 50, ...options });
  open.push(made);
  for (const [name, fit] of Object.entries(clients)) await made.client(name, fit);
  const { roster } = made;
  const participants = {
    ...{ roster, clients: made.server, signal: stop.signal, close: async () => undefined },
    enough: ({ need }: { readonly need: number }) => roster.enough(need, 2000, stop.signal, () => undefined),
  };
  const deployment = new AsyncDeployment(
    {
      ...{ participants, server: fedbuff({ buffer: 2, serverLr: 1 }), seed: 1, concurrency: 3 },
      ...{ local: { epochs: 1, batch: 10 }, deadlineMs: 20_000, ...own },
    },
    new Float32Array(50),
    new Float32Array(0),
  );
  open.push(deployment);
  return { made, deployment };
}

const one: Fit = async (start) => ({ update: start.map(() => 1) });
/** Trains when it is let, and says that it was asked. */
function held() {
  const [asked, go] = [latch(), latch()];
  const fit: Fit = async (start, about) => {
    asked.open();
    await go.opened;
    return one(start, about);
  };
  return { asked, go, fit };
}

describe('real clients of which nobody waits for the slowest', () => {
  it('make versions while one still trains, whose answer is used when it comes', async () => {
    const slow = held();
    const { made, deployment } = await deployed({ a: one, b: one, slow: slow.fit });
    for (let version = 1; version <= 9; version++) {
      const report = await deployment.next();
      expect(report).toMatchObject({ version, dropped: [] });
      expect(report?.answers.map(({ client }) => client)).not.toContain(2);
    }
    await slow.asked.opened;
    slow.go.open();
    let late: number | undefined;
    while (late === undefined) late = (await deployment.next())?.answers.find(({ client }) => client === 2)?.version;
    expect(late).toBe(0);
    expect(deployment.progress.version).toBeGreaterThanOrEqual(10);
    expect(made.roster.quarantined).toBe(0);
  });

  it('weigh an answer by the versions that were made meanwhile', async () => {
    const slow = held();
    const { deployment } = await deployed(
      { a: one, slow: slow.fit },
      { server: fedbuff({ buffer: 1, serverLr: 1 }), concurrency: 2 },
    );
    for (let version = 1; version <= 3; version++) await deployment.next();
    expect(deployment.params[0]).toBe(3);
    await slow.asked.opened;
    slow.go.open();
    let expected = 3;
    for (;;) {
      const version = await deployment.next();
      const [answer] = version?.answers ?? [];
      const staleness = (version?.version ?? 0) - 1 - (answer?.version ?? 0);
      expect(version?.staleness).toBe(staleness);
      expected = Math.fround(expected + Math.fround(1 / Math.sqrt(1 + staleness)));
      expect(deployment.params[0]).toBe(expected);
      if (answer?.client === 1) {
        expect(staleness).toBeGreaterThanOrEqual(3);
        break;
      }
    }
  });

  it('give up on one that takes too long, and on answers that are too old', async () => {
    const [slow, stale] = [held(), held()];
    const { deployment } = await deployed(
      { a: one, slow: slow.fit, stale: stale.fit },
      { deadlineMs: 1500, maxStaleness: 2, server: fedbuff({ buffer: 1, serverLr: 1 }) },
    );
    await deployment.next();
    await Promise.all([slow.asked.opened, stale.asked.opened]);
    for (let i = 0; i < 3; i++) await deployment.next();
    stale.go.open();
    const late = '1: no answer within the 1.5 s that a fit may take';
    const reasons: string[] = [];
    while (!reasons.includes(late))
      for (const each of (await deployment.next())?.dropped ?? []) reasons.push(`${each.client}: ${each.reason}`);
    slow.go.open();
    // (Of the two that are quick one may be overtaken as well.)
    const old = reasons.filter((reason) => reason.startsWith('2: it began'));
    expect(old[0]).toMatch(/^2: it began \d+ versions ago, the bound is 2$/);
  });

  it('ask others when one leaves, and go on with who comes', async () => {
    const leaving = held();
    const { made, deployment } = await deployed({ a: one }, { concurrency: 2 });
    const leaver = await made.client('b', leaving.fit);
    const version = deployment.next();
    await leaving.asked.opened;
    const left = leaver.stop();
    leaving.go.open();
    await left;
    expect((await version)?.answers).toHaveLength(2);
    await made.client('c', one);
    let newcomer = false;
    while (!newcomer) newcomer = (await deployment.next())?.answers.some(({ client }) => client === 2) ?? true;
    expect(newcomer).toBe(true);
  });

  it('end with an error that names who gives nothing, and why', async () => {
    const { made, deployment } = await deployed({});
    let asked = 0;
    const fit: ClientCompute['fit'] = async (start, { client }) => {
      asked += 1;
      const report = { client, examples: 10, steps: 0, weight: 1, loss: 1, norm: 0, kept: {}, ms: 1 };
      return { update: start.params, report: { ...report, problem: 'its disk is full' } };
    };
    for (const name of ['a', 'b']) await made.client(name, one, { fit });
    const failure = await deployment.next().catch((error: Error) => error);
    expect(failure).toBeInstanceOf(RoundsFailed);
    expect(String(failure)).toMatch(
      /version 1 cannot be made: nobody who is there gives an update for it \([ab]: its disk is full\)/,
    );
    expect(asked).toBe(10);
  });

  it('stop at once when the run is to stop, whatever clients are at', async () => {
    const slow = held();
    const stop = new AbortController();
    const { deployment } = await deployed({ slow: slow.fit }, { stop });
    const version = deployment.next();
    await slow.asked.opened;
    stop.abort(new Error('stop'));
    expect(await version).toBeNull();
    slow.go.open();
  });
});
