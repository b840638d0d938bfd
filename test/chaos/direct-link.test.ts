import { afterEach, expect, it } from 'vitest';
import { type Endpoint, type LinkAddress, type LinkInbox, openEndpoint } from '../../src/comm/index.ts';
import { int32 } from '../../src/tensor/index.ts';
import { FaultProxy } from './fault-proxy.ts';

const endings: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

/** An inbox that keeps tags, and tells how receiving ended. */
function inbox(): LinkInbox & { readonly tags: string[]; readonly over: Promise<string> } {
  const tags: string[] = [];
  let end: (reason: string) => void = () => undefined;
  const over = new Promise<string>((resolve) => {
    end = resolve;
  });
  const nothing = () => undefined;
  return { tags, over, message: (tag) => tags.push(tag), credit: nothing, sendingEnded: nothing, receivingEnded: end };
}

/** Two ranks with a direct link whose sockets go through proxies. */
async function linked(silenceMs: number) {
  const open = async (rank: number): Promise<Endpoint> => {
    const made = await openEndpoint({
      ...{ job: 'test', generation: 1, rank, world: 2, secret: 'sixteen bytes at least', nats: null },
      ...{ deadlineMs: 5000, listen: { host: '127.0.0.1' }, silenceMs },
    });
    endings.push(() => made.close('the test is over', 'abort'));
    return made;
  };
  const [a, b] = [await open(0), await open(1)];
  const through = async ({ address }: Endpoint): Promise<[LinkAddress, FaultProxy]> => {
    const proxy = await FaultProxy.start(address.tcp!);
    endings.push(() => proxy.close());
    return [{ ...address, tcp: { host: proxy.host, port: proxy.port } }, proxy];
  };
  const [toA, proxyA] = await through(a);
  const [toB, proxyB] = await through(b);
  const inboxes = [inbox(), inbox()] as const;
  const [links] = await Promise.all([
    a.connect([null, toB], ['-', 'tcp'], () => inboxes[0]),
    b.connect([toA, null], ['tcp', '-'], () => inboxes[1]),
  ]);
  return { link: links[1]!, inboxes, proxies: [proxyA, proxyB] };
}

it('a direct link whose packets vanish is called broken soon; one that has nothing to say is not', async () => {
  const { link, inboxes, proxies } = await linked(3000);
  const ended = Promise.race(inboxes.map(({ over }) => over));
  const wait = (ms: number) => new Promise<'quiet'>((resolve) => setTimeout(resolve, ms, 'quiet'));
  expect(await Promise.race([ended, wait(4500)])).toBe('quiet');
  void link.post('m/x', [int32([1], [])], false);
  expect(await Promise.race([ended, wait(100)])).toBe('quiet');
  expect(inboxes[1].tags).toEqual(['m/x']);
  const began = performance.now();
  await Promise.all(proxies.map((proxy) => proxy.set({ blackHole: true })));
  const reasons = await Promise.all(inboxes.map(({ over }) => over));
  for (const reason of reasons) expect(reason).toMatch(/nothing was heard of rank \d for \d+ ms|connection ended/);
  expect(reasons.some((reason) => /nothing was heard/.test(reason))).toBe(true);
  expect(performance.now() - began).toBeLessThan(8000);
});
