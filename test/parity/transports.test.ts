import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runtime } from '../../scripts/runtimes.mjs';
import { Cluster, differing, type Event, type Outcome } from '../chaos/cluster.ts';
import { Network } from '../chaos/namespaces.ts';
import { root } from '../chaos/processes.ts';
import type { ProjectOptions } from '../chaos/project.ts';

/** Meshes of up to four ranks, on three processes of which one has two slots. */
const cells: readonly (readonly [name: string, options: ProjectOptions])[] = [
  ['data 3', { parallel: { data: 3 } }],
  ['data 2 × pipeline 2, 1f1b', { parallel: { data: 2, pipeline: 2, schedule: '1f1b' } }],
  ['data 4, expert 2', { moe: true, parallel: { data: 4, expert: 2 } }],
  ['data 2 × pipeline 2, expert 2', { moe: true, parallel: { data: 2, pipeline: 2, expert: 2 } }],
];
const STEPS = 12;

// Elsewhere than in CI a machine without the registry, or of another kind, still passes the rest of the suite.
let deno: string | null = null;
try {
  deno = runtime('deno');
} catch (error) {
  if (process.env.CI) throw error;
}

/** The links between ranks of different processes in an event `generation`: each kind once, sorted. */
function kindsOf(event: Event): string[] {
  const links = event.links as readonly (readonly string[])[];
  return [...new Set(links.flat())].filter((kind) => kind !== '-' && kind !== 'local').sort();
}

/** Trains on workers that are there, and checks the bits and the kinds of links. */
async function expectSerialBits(
  cluster: Cluster,
  options: ProjectOptions,
  data: string,
  kinds: readonly string[],
  place: { readonly prefix?: readonly string[] } = {},
): Promise<void> {
  const config = cluster.config({ steps: STEPS, ...options });
  const run = cluster.train(config, { ...place, args: ['--set', `comm.data=${data}`] });
  const outcome = await run.outcome();
  // (Other bits after a recovery are another fault than other bits without one.)
  expect(run.of('lost')).toEqual([]);
  const expected = await serial(options.moe ?? false);
  expect(Object.keys(outcome.tensors)).toEqual(expect.arrayContaining(Object.keys(expected.tensors)));
  expect(Object.keys(expected.tensors).length).toBeGreaterThan(10);
  // (In which tensors they differ says where a sum went wrong: in an expert's, or in all.)
  expect({ ...outcome, tensors: differing(outcome, expected) }).toEqual({ ...expected, tensors: [] });
  expect(kindsOf(run.of('generation')[0]!)).toEqual(kinds);
}

const references = new Map<boolean, Promise<Outcome>>();
function serial(moe: boolean): Promise<Outcome> {
  const make = async () => {
    const alone = await Cluster.start({ nats: null });
    try {
      return await alone.serial(alone.config({ steps: STEPS, moe }));
    } finally {
      await alone.close();
    }
  };
  const known = references.get(moe) ?? make();
  references.set(moe, known);
  return known;
}

describe('three processes of one machine give the serial bits over', () => {
  let cluster: Cluster;
  // They outlive the runs: each is spare again after one, and takes part in the next.
  beforeAll(async () => {
    cluster = await Cluster.start();
    cluster.worker({ slots: 2 });
    cluster.workers(2, { slots: 1 });
  });
  afterAll(() => cluster?.close());

  describe.each(['nats', 'host', 'unix', 'tcp', 'auto'])('%s', (data) => {
    it.each(cells)('%s', (_, options) => expectSerialBits(cluster, options, data, [data === 'auto' ? 'host' : data]));
  });
});

describe('three hosts give the serial bits over', () => {
  let cluster: Cluster;
  let network: Network;
  beforeAll(async () => {
    network = await Network.create(3);
    const { address, prefix } = network.host(0);
    cluster = await Cluster.start({ nats: { hosts: [address], prefix } });
    for (const index of [0, 1, 2]) cluster.worker({ slots: index === 0 ? 2 : 1, prefix: network.host(index).prefix });
  });
  afterAll(async () => {
    await cluster?.close();
    await network?.close();
  });

  describe.each(['nats', 'tcp', 'auto'])('%s', (data) => {
    it.each(cells)('%s', (_, options) =>
      expectSerialBits(cluster, options, data, [data === 'auto' ? 'tcp' : data], network.host(0)),
    );
  });
});

describe.skipIf(deno === null)('two processes under Node and one under Deno give the serial bits over', () => {
  let cluster: Cluster;
  beforeAll(async () => {
    cluster = await Cluster.start();
    cluster.worker({ slots: 2 });
    cluster.worker();
    cluster.worker({ program: [deno ?? '', 'run', '-A', join(root, 'src', 'cli', 'main.ts')] });
  });
  afterAll(() => cluster?.close());

  it.each([
    ['nats', ...cells[1]!],
    ['tcp', ...cells[2]!],
    ['unix', ...cells[1]!],
    ['host', ...cells[2]!],
    ['auto', ...cells[3]!],
  ] as const)('%s, %s', async (data, _, options) => {
    await expectSerialBits(cluster, options, data, [data === 'auto' ? 'host' : data]);
  });
});
