import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  dataSchema,
  iid,
  openDataset,
  type Partition,
  type PreparedData,
  prepareData,
} from '../../../src/data/index.ts';
import { optimSchema } from '../../../src/optim/index.ts';
import {
  AsyncSimulation,
  type AsyncState,
  behaviourSchema,
  clientBehaviour,
  FitPool,
  fedasync,
  fedbuff,
  Gossip,
  metropolisWeights,
  TOPOLOGIES,
  topology,
} from '../../../src/schedulers/federated/index.ts';

let data: PreparedData;
let partition: Partition;
const pools: FitPool[] = [];
const start = (size: number) => Float32Array.from({ length: size }, (_, i) => Math.fround(Math.sin(i * 7.1) / 20));

beforeAll(async () => {
  data = await prepareData(dataSchema.parse({ name: 'mnist', limit: 1000, validation: 0.1 }));
  partition = iid({ examples: openDataset(data).split('train').examples, labels: null }, { clients: 12, seed: 1 });
  for (const threads of [1, 2])
    pools.push(
      await FitPool.start({
        job: {
          seed: 3,
          model: { name: 'mlp', args: { hidden: [16] } },
          optim: optimSchema.parse({ name: 'sgd', lr: 0.1, momentum: 0 }),
          data,
          engine: { kind: 'onnx', device: 'cpu', threads: 1 },
          objective: { name: 'none', config: {} },
          batch: 10,
        },
        threads,
      }),
    );
});
afterAll(async () => {
  for (const pool of pools) await pool.close();
});

describe('asynchronous training', () => {
  const simulate = async (
    pool: FitPool,
    settings: object,
    versions: number,
    server = fedbuff({ buffer: 3, serverLr: 1 }),
  ) => {
    const simulation = new AsyncSimulation(
      {
        pool,
        partition,
        server,
        behaviour: clientBehaviour(behaviourSchema.parse(settings), 5),
        seed: 5,
        concurrency: 6,
        local: { epochs: 1, batch: 10 },
      },
      start(pool.paramsSize),
      new Float32Array(0),
    );
    const reports = [];
    for (let i = 0; i < versions; i++) reports.push(await simulation.next());
    await simulation.settle();
    return { simulation, reports };
  };

  it('has the same bits with any number of threads, in order of simulated time', async () => {
    const [one, two] = await Promise.all(pools.map((pool) => simulate(pool, { speed_spread: 10, dropout: 0.2 }, 6)));
    expect(two?.simulation.params).toEqual(one?.simulation.params);
    expect(two?.reports.map(({ time }) => time)).toEqual(one?.reports.map(({ time }) => time));
    const times = one?.reports.map(({ time }) => time) ?? [];
    expect(times).toEqual([...times].sort((a, b) => a - b));
    expect(one?.reports.some(({ staleness }) => staleness > 0)).toBe(true);
    expect(one?.reports.some(({ dropped }) => dropped.length > 0)).toBe(true);
    expect(one?.reports.at(-1)?.loss).toBeLessThan(one?.reports[0]?.loss ?? 0);
  });

  it('says how many answers the next version has', async () => {
    const counts: unknown[] = [];
    const server = fedbuff({ buffer: 3, serverLr: 1 });
    const simulation: AsyncSimulation = new AsyncSimulation(
      {
        pool: pools[0] as FitPool,
        partition,
        server: {
          ...server,
          weight: (passed) => {
            counts.push(simulation.underway);
            return server.weight(passed);
          },
        },
        behaviour: clientBehaviour(behaviourSchema.parse({}), 5),
        seed: 5,
        concurrency: 6,
        local: { epochs: 1, batch: 10 },
      },
      start((pools[0] as FitPool).paramsSize),
      new Float32Array(0),
    );
    for (let version = 0; version < 2; version++) await simulation.next();
    await simulation.settle();
    expect(counts).toEqual([1, 2, 3, 1, 2, 3].map((done) => ({ done, of: 3 })));
    expect(simulation.underway).toEqual({ done: 0, of: 3 });
  });

  it('goes on from a snapshot to the same bits, with fits under way that began with other versions', async () => {
    const make = (at?: AsyncState, params = start((pools[0] as FitPool).paramsSize)) =>
      new AsyncSimulation(
        {
          pool: pools[1] as FitPool,
          partition,
          server: fedbuff({ buffer: 2, serverLr: 1 }),
          behaviour: clientBehaviour(behaviourSchema.parse({ speed_spread: 30 }), 5),
          seed: 5,
          concurrency: 6,
          local: { epochs: 1, batch: 10 },
        },
        params,
        new Float32Array(0),
        at,
      );
    const whole = make();
    for (let i = 0; i < 3; i++) await whole.next();
    const at = whole.snapshot();
    expect(at.starts.size).toBeGreaterThan(0);
    const again = make(at, whole.params.slice());
    for (let i = 0; i < 3; i++) await Promise.all([whole.next(), again.next()]);
    expect(again.params).toEqual(whole.params);
    expect(again.snapshot()).toEqual(whole.snapshot());
    await Promise.all([whole.settle(), again.settle()]);
  });

  it('does not wait for slow clients', async () => {
    const pool = pools[1] as FitPool;
    const spread = await simulate(pool, { speed_spread: 100 }, 5);
    const behaviour = clientBehaviour(behaviourSchema.parse({ speed_spread: 100 }), 5);
    const bytes = 8 * pool.paramsSize;
    const slowest = Math.max(
      ...Array.from({ length: 12 }, (_, client) =>
        behaviour.seconds(client, { examples: partition.size(client), bytes }),
      ),
    );
    // Five rounds that wait for everybody would take five times the slowest.
    expect(spread.simulation.time).toBeLessThan(2 * slowest);
  });

  it('mixes every update in at once with FedAsync, less the staler it is', async () => {
    const server = fedasync({ alpha: 0.6, exponent: 1 });
    expect([0, 1, 3].map((staleness) => server.weight(staleness))).toEqual([0.6, 0.3, 0.15]);
    const { reports } = await simulate(pools[1] as FitPool, {}, 8, server);
    expect(reports.every((report) => report.reports.length === 1)).toBe(true);
  });

  it('says why nobody answers', async () => {
    await expect(simulate(pools[1] as FitPool, { dropout: 1 }, 1)).rejects.toThrow(/none of the last \d+ clients/);
  });
});

describe('FedAsync', () => {
  it('mixes parameters as in algorithm 1, stale ones too', async () => {
    const pool = pools[0] as FitPool;
    const [alpha, exponent] = [0.6, 0.5];
    const simulation = new AsyncSimulation(
      {
        pool,
        partition,
        server: fedasync({ alpha, exponent }),
        behaviour: clientBehaviour(behaviourSchema.parse({ speed_spread: 4 }), 5),
        seed: 5,
        concurrency: 3,
        local: { epochs: 1, batch: 10 },
      },
      start(pool.paramsSize),
      new Float32Array(0),
    );
    // Versions by number, and who began with which, told from outside.
    const versions = [simulation.params.slice()];
    let stale = 0;
    for (let step = 0; step < 5; step++) {
      const before = simulation.snapshot();
      const { reports, staleness } = await simulation.next();
      const { client } = reports[0] as (typeof reports)[number];
      const flight = before.flights.find((one) => one.client === client) ?? { version: step, number: -1 };
      expect(staleness).toBe(step - flight.version);
      stale += staleness;
      if (flight.number >= 0) {
        const began = versions[flight.version] as Float32Array;
        const fit = { client, round: flight.number, examples: partition.examples(client).slice(), epochs: 1 };
        const [alone] = await pool.each(pool.publish(began, new Float32Array(0)), [
          { ...fit, maxSteps: null, firstStep: 0, weight: 1, clipNorm: null, kept: {} },
        ]);
        const share = alpha * (1 + staleness) ** -exponent;
        const old = versions[step] as Float32Array;
        simulation.params.forEach((value, i) => {
          const theirs = (began[i] as number) + (alone?.update[i] as number);
          expect(Math.abs(value - ((1 - share) * (old[i] as number) + share * theirs))).toBeLessThan(1e-6);
        });
      }
      versions.push(simulation.params.slice());
    }
    expect(stale).toBeGreaterThan(0);
    await simulation.settle();
  });
});

describe('gossip', () => {
  it('mixes with weights that keep the mean, over connected graphs', () => {
    fc.assert(
      fc.property(fc.constantFrom(...TOPOLOGIES), fc.integer({ min: 2, max: 20 }), fc.nat(100), (kind, nodes, seed) => {
        const graph = topology(kind, nodes, { seed });
        const reached = new Set([0]);
        for (const node of reached) for (const other of graph[node] ?? []) reached.add(other);
        expect(reached.size).toBe(nodes);
        const columns = new Array<number>(nodes).fill(0);
        for (let i = 0; i < nodes; i++) {
          const weights = metropolisWeights(graph, i);
          expect(weights.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 12);
          expect(Math.min(...weights)).toBeGreaterThanOrEqual(0);
          [...(graph[i] ?? []), i].forEach((j, n) => {
            columns[j] = (columns[j] as number) + (weights[n] as number);
            expect(j === i || graph[j]?.includes(i)).toBe(true);
          });
        }
        for (const column of columns) expect(column).toBeCloseTo(1, 12);
      }),
      { numRuns: 100 },
    );
    expect(() => topology('ring', 1)).toThrow(/two nodes/);
  });

  it('learns on a ring, and nodes come to agree', async () => {
    const pool = pools[1] as FitPool;
    const gossip = new Gossip(
      { pool, partition, graph: topology('ring', 12), local: { epochs: 1, batch: 10 } },
      start(pool.paramsSize),
      new Float32Array(0),
    );
    const reports = [];
    for (let round = 0; round < 8; round++) reports.push(await gossip.next());
    expect(reports.at(-1)?.loss).toBeLessThan((reports[0]?.loss ?? 0) / 1.5);
    const alone = new Gossip(
      { pool, partition, graph: topology('complete', 12), local: { epochs: 1, batch: 10 } },
      start(pool.paramsSize),
      new Float32Array(0),
    );
    const { disagreement } = await alone.next();
    expect(disagreement).toBeLessThan((reports[0]?.disagreement ?? 0) / 100);
    expect(reports[0]?.bytes).toBe(12 * 2 * 4 * pool.paramsSize);
  });

  it('says how many nodes of a round have been trained', async () => {
    const pool = pools[0] as FitPool;
    const gossip = new Gossip(
      { pool, partition, graph: topology('ring', 12), local: { epochs: 1, batch: 10 } },
      start(pool.paramsSize),
      new Float32Array(0),
    );
    await gossip.next();
    expect(gossip.underway).toBeNull();
    const counts: number[] = [];
    const round = gossip.next();
    while (gossip.underway) {
      expect(gossip.underway.of).toBe(12);
      counts.push(gossip.underway.done);
      await new Promise(setImmediate);
    }
    await round;
    expect(counts).toEqual([...counts].sort((a, b) => a - b));
    expect(counts[0]).toBeLessThan(12);
    expect(counts.at(-1)).toBeGreaterThan(0);
    expect(counts.at(-1)).toBeLessThanOrEqual(12);
  });

  it('goes on without nodes that are away, whose parameters stay what they are', async () => {
    const pool = pools[1] as FitPool;
    const behaviour = clientBehaviour(behaviourSchema.parse({ availability: 0.6, speed_spread: 10 }), 5);
    const gossip = new Gossip(
      { pool, partition, graph: topology('ring', 12), local: { epochs: 1, batch: 10 }, behaviour },
      start(pool.paramsSize),
      new Float32Array(0),
    );
    await gossip.next();
    const before = gossip.nodes.map((node) => node.slice());
    const { dropped, reports, time } = await gossip.next();
    expect(dropped.length).toBeGreaterThan(0);
    expect(reports).toHaveLength(12 - dropped.length);
    const away = new Set(dropped.map(({ client }) => client));
    for (const [i, node] of gossip.nodes.entries())
      expect(node.every((v, k) => v === before[i]?.[k])).toBe(away.has(i));
    expect(time).toBeGreaterThan(0);
  });
});
