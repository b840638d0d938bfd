import { expect, it } from 'vitest';
import type { AtInstruction, Cluster } from './cluster.ts';
import { FaultProxy } from './fault-proxy.ts';
import { cluster, expectUndisturbed, reference } from './in-test.ts';
import { Network } from './namespaces.ts';
import type { ProjectOptions } from './project.ts';

const slow: AtInstruction = { op: 'Optimize', sleepMs: 100 };
const LEASE = ['--lease', '1.5'];
const options = (data: string, more: ProjectOptions = {}): ProjectOptions => ({
  steps: 80,
  moe: true,
  parallel: { data: 3 },
  ...more,
  sections: { comm: { data, lease_s: 1.5 } },
});

/** Hosts with a server and the coordinator on the first, and a worker on each. */
async function hosts(count: number): Promise<{ on: Cluster; network: Network }> {
  const network = await Network.create(count);
  const { address, prefix } = network.host(0);
  try {
    const on = await cluster({ nats: { hosts: [address], prefix } });
    on.onClose(() => network.close());
    for (const host of network.hosts) on.worker({ args: LEASE, at: [slow], prefix: host.prefix });
    return { on, network };
  } catch (error) {
    await network.close();
    throw error;
  }
}

it('a partition that heals: the run goes on without that host, and with it afterwards', async () => {
  const { on, network } = await hosts(3);
  const run = on.train(on.config(options('auto', { steps: 120 })), {
    prefix: network.host(0).prefix,
    args: ['--min-workers', '1'],
  });
  await run.reached(5);
  await network.partition(2);
  await run.event('recovered');
  await run.reached(run.step + 5);
  const before = run.events.length;
  await network.heal(2);
  await run.event('generation', ({ mesh }) => (mesh as { data: number }).data === 3, 30_000, before);
  expectUndisturbed(await run.outcome(60_000), await reference(options('auto', { steps: 120 })));
});

it('two workers that lose each other, but not the server, go on through the server', async () => {
  const { on, network } = await hosts(3);
  const run = on.train(on.config(options('auto')), { prefix: network.host(0).prefix });
  await run.reached(5);
  await network.run(1, ['ip', 'route', 'add', 'blackhole', `${network.host(2).address}/32`]);
  expectUndisturbed(await run.outcome(90_000), await reference(options('auto')));
}, 120_000);

it('a slow link of 50 ms that is cut every two seconds', async () => {
  const on = await cluster();
  const { hostname, port } = new URL(on.nats.url);
  const proxy = await FaultProxy.start({ host: hostname, port: Number(port) });
  on.onClose(() => proxy.close());
  on.workers(2, { args: LEASE });
  // However quick the machine, no step is done in less than 100 ms, and so the link is cut several times.
  on.worker({ args: LEASE, at: [slow], url: `nats://${proxy.address}` });
  const far = options('nats', { steps: 50 });
  const run = on.train(on.config(far));
  await run.reached(1);
  await proxy.set({ delayMs: 50, cutEveryMs: 2000, bytesPerSecond: 2_000_000 });
  expectUndisturbed(await run.outcome(90_000), await reference(far));
  expect((await proxy.counts()).cuts).toBeGreaterThan(1);
}, 120_000);

it('a server that swallows everything of one worker for a while', async () => {
  const on = await cluster();
  const { hostname, port } = new URL(on.nats.url);
  const proxy = await FaultProxy.start({ host: hostname, port: Number(port) });
  on.onClose(() => proxy.close());
  on.workers(3, { args: LEASE, at: [slow] });
  on.worker({ args: LEASE, at: [slow], url: `nats://${proxy.address}` });
  const run = on.train(on.config(options('nats', { parallel: { data: 4, expert: 2 } })), {
    args: ['--min-workers', '1'],
  });
  await run.reached(5);
  await proxy.set({ blackHole: true });
  await run.event('recovered');
  const before = run.events.length;
  await proxy.heal();
  await run.event('joined', undefined, 30_000, before);
  expectUndisturbed(await run.outcome(60_000), await reference(options('nats')));
});
