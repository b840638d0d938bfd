import { createServer } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import {
  type Endpoint,
  type EndpointOptions,
  hostId,
  LinkError,
  type LinkInbox,
  type LinkKind,
  openEndpoint,
  ownAddress,
  probe,
} from '../../src/comm/index.ts';
import { int32 } from '../../src/tensor/index.ts';
import { SECRET } from './worlds.ts';

const open: Endpoint[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((endpoint) => endpoint.close('the test is over')));
});

const endpoint = async (rank: number, options: Partial<EndpointOptions> = {}): Promise<Endpoint> => {
  const common = { job: 'test', generation: 1, world: 2, secret: SECRET, nats: null, deadlineMs: 5000 };
  const made = await openEndpoint({ ...common, rank, listen: { host: '127.0.0.1' }, ...options });
  open.push(made);
  return made;
};
const pair = (options: Partial<EndpointOptions> = {}, other: Partial<EndpointOptions> = options) =>
  Promise.all([endpoint(0, options), endpoint(1, other)]);

/** An inbox that keeps what comes. */
function inbox(): LinkInbox & { readonly got: string[]; readonly over: Promise<string> } {
  const got: string[] = [];
  let end: (reason: string) => void = () => undefined;
  const over = new Promise<string>((resolve) => {
    end = resolve;
  });
  return {
    got,
    over,
    message: (tag, tensors) => got.push(`${tag}=${tensors.map(({ data }) => [...data]).join()}`),
    credit: (channel, count) => got.push(`${channel}+${count}`),
    sendingEnded: () => undefined,
    receivingEnded: (reason) => end(reason),
  };
}

const failure = async (wait: Promise<unknown>): Promise<LinkError> => {
  const error = await wait.then(
    () => new Error('it went well'),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(LinkError);
  return error as LinkError;
};

describe('endpoints', () => {
  for (const kind of ['unix', 'tcp', 'host'] as const)
    it(`link two ranks over ${kind}; a good-bye comes after what was said`, async () => {
      const [a, b] = await pair();
      const addresses = [a.address, b.address];
      expect(a.address).toMatchObject({ hostId: hostId(), tcp: { host: '127.0.0.1' }, host: true });
      const inboxes = [inbox(), inbox()] as const;
      const [links] = await Promise.all([
        a.connect(addresses, ['-', kind], () => inboxes[0]),
        b.connect(addresses, [kind, '-'], () => inboxes[1]),
      ]);
      expect(links[0]).toBeNull();
      for (let i = 0; i < 100; i++) void links[1]!.post('x/m', [int32([i], [])], false);
      links[1]!.giveCredit('y', 7);
      await a.close('rank 0 is done');
      expect(await inboxes[1].over).toBe('rank 0 is done');
      expect(inboxes[1].got).toEqual([...Array.from({ length: 100 }, (_, i) => `x/m=${i}`), 'y+7']);
      expect(Object.values(b.statistics().dropped).every((count) => count === 0)).toBe(true);
    });

  it('name the pair, the kind and the reason when a link cannot be made', async () => {
    const cases: [LinkKind, LinkKind | '-', Partial<EndpointOptions>, Partial<EndpointOptions>, RegExp][] = [
      ['tcp', 'unix', {}, {}, /rank 0 could not be linked to rank 1 over tcp: .*rank 1 was told unix/],
      ['host', 'unix', {}, {}, /rank 0 could not be linked to rank 1 over host: .*was told unix/],
      ['tcp', 'tcp', {}, { listen: null }, /over tcp: rank 1 told no address for it/],
      ['nats', 'nats', {}, {}, /over nats: this end has no connection to NATS/],
      ['tcp', 'tcp', {}, { secret: 'another one of 16 bytes' }, /over tcp: .*does not know the job's secret/],
      ['tcp', 'tcp', {}, { generation: 2 }, /over tcp: .*is of generation [12], this end [12]/],
      ['unix', 'unix', {}, { job: 'other' }, /over unix: .*is of job "\w+", this end "\w+"/],
      ['unix', 'unix', {}, { credits: 3 }, /over unix: .*uses credits \d+, this end \d+/],
    ];
    for (const [kind, other, mine, theirs, message] of cases) {
      const [a, b] = await pair({ deadlineMs: 2000, ...mine }, { deadlineMs: 2000, ...theirs });
      const addresses = [a.address, b.address];
      const second = b.connect(addresses, [other, '-'], inbox).catch(() => undefined);
      const error = await failure(a.connect(addresses, ['-', kind], inbox));
      expect(error.message).toMatch(message);
      expect([error.rank, error.peer, error.kind]).toEqual([0, 1, kind]);
      await second;
    }
  });

  it('that nobody answers fail at the deadline, and listen no more', async () => {
    const [a, b] = await pair({ deadlineMs: 300 });
    await b.close('gone');
    for (const kind of ['tcp', 'unix'] as const) {
      const c = await endpoint(0, { deadlineMs: 300 });
      const since = performance.now();
      const error = await failure(c.connect([c.address, b.address], ['-', kind], inbox));
      expect(performance.now() - since).toBeLessThan(2000);
      expect(error.message).toMatch(new RegExp(`rank 0 could not be linked to rank 1 over ${kind}`));
      expect(await probe(c.address.tcp!, 1000)).toBe(false);
    }
    const far = { ...b.address, hostId: 'elsewhere' };
    expect((await failure(a.connect([a.address, far], ['-', 'host'], inbox))).message).toMatch(/on different machines/);
  });

  it('do not wait for the deadline where nobody answers at an address, though it can be dialled', async () => {
    const mute = createServer(() => undefined);
    await new Promise<void>((resolve) => mute.listen(0, '127.0.0.1', resolve));
    const [a, b] = await pair({ deadlineMs: 60_000, answerMs: 200 });
    const tcp = { host: '127.0.0.1', port: (mute.address() as { port: number }).port };
    const error = await failure(a.connect([a.address, { ...b.address, tcp }], ['-', 'tcp'], inbox));
    expect(error.message).toMatch(
      /over tcp: rank 0 could not reach rank 1 at 127\.0\.0\.1:\d+ in \d+ ms: nobody answered/,
    );
    expect(Number(/in (\d+) ms/.exec(error.message)?.[1])).toBeLessThan(10_000);
    mute.close();
  });

  it('wait for a peer that is told later, and give up at once when they are closed', async () => {
    const [a, b] = await pair({ answerMs: 400 });
    const addresses = [a.address, b.address];
    const first = a.connect(addresses, ['-', 'tcp'], inbox);
    // (It answers; that it does not know of the link yet may last longer than an answer.)
    await new Promise((resolve) => setTimeout(resolve, 600));
    const [[, link]] = await Promise.all([first, b.connect(addresses, ['tcp', '-'], inbox)]);
    expect(link).not.toBeNull();
    const [c, d] = await pair();
    const waiting = failure(c.connect([c.address, d.address], ['-', 'tcp'], inbox));
    await c.close('a new generation');
    expect((await waiting).message).toMatch(/rank 0 could not be linked to rank 1 over tcp/);
  });

  it('find out what can be reached', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    expect(await probe({ host: '127.0.0.1', port }, 1000)).toBe(true);
    await new Promise((resolve) => server.close(resolve));
    expect(await probe({ host: '127.0.0.1', port }, 1000)).toBe(false);
    expect(await probe({ host: '203.0.113.1', port }, 50)).toBe(false);
    expect(await probe({ host: 'no such host', port }, 1000)).toBe(false);
    expect(hostId()).toMatch(/^[0-9a-f]{16}$/);
    expect(ownAddress('203.0.113.1')).not.toBe('203.0.113.1');
  });
});
