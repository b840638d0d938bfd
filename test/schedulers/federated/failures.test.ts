import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type Dataset,
  dataSchema,
  dirichlet,
  iid,
  openDataset,
  type Partition,
  partitionOf,
  pathological,
  prepareData,
} from '../../../src/data/index.ts';
import { buildModel, initParams, modelParams } from '../../../src/modules/index.ts';
import { optimSchema } from '../../../src/optim/index.ts';
import {
  behaviourSchema,
  type ClientBehaviour,
  ClientStore,
  clientBehaviour,
  FitPool,
  federatedStrategies,
  isMalicious,
  type RoundReport,
  RoundSimulation,
} from '../../../src/schedulers/federated/index.ts';
import { partOf, type VectorLayout, vectorLayout } from '../../../src/schedulers/local/index.ts';
import { createRng } from '../../../src/tensor/index.ts';

const BATCH = 10;
const MODEL = { name: 'mlp', args: { hidden: [16] } };
let dataset: Dataset;
let pool: FitPool;
let layout: VectorLayout;
let initial: Float32Array;
let source: { examples: number; labels: ArrayLike<number> | null };

beforeAll(async () => {
  const data = await prepareData(dataSchema.parse({ name: 'mnist', limit: 2000, validation: 0 }));
  dataset = openDataset(data);
  const train = dataset.split('train');
  source = { examples: train.examples, labels: train.labels ?? null };
  const { model } = await buildModel(MODEL as never, dataset.info);
  layout = vectorLayout(modelParams(model));
  initial = new Float32Array(layout.size);
  const drawn = initParams(modelParams(model), 1);
  for (const place of layout.places) partOf(initial, place).set(drawn[place.path]?.data as Float32Array);
  pool = await FitPool.start({
    job: {
      seed: 1,
      model: MODEL,
      optim: optimSchema.parse({ name: 'sgd', lr: 0.05, momentum: 0 }),
      data,
      engine: { kind: 'onnx', device: 'cpu', threads: 1 },
      objective: { name: 'none', config: {} },
      batch: BATCH,
    },
    threads: 2,
  });
});
afterAll(async () => pool.close());

interface Rounds {
  readonly rounds: number;
  readonly cohort: number;
  readonly partition: Partition;
  readonly strategy?: string;
  readonly settings?: object;
  readonly behaviour?: ClientBehaviour;
  readonly quorum?: number;
  readonly deadlineSeconds?: number;
  readonly maxNorm?: number;
}

const honest = clientBehaviour(behaviourSchema.parse({}), 1);

async function trained(options: Rounds) {
  const { rounds, cohort, partition, strategy: name = 'fedavg', settings = {}, behaviour = honest } = options;
  const { quorum = 1, deadlineSeconds = null, maxNorm = null } = options;
  const strategy = federatedStrategies().get(name);
  if (!strategy) throw new Error(`no strategy ${name}`);
  const shape = { params: layout, state: vectorLayout([]), clients: partition.clients, seed: 1 };
  const server = strategy.server(strategy.config.parse(settings), shape);
  const store = new ClientStore();
  const simulation = new RoundSimulation(
    {
      pool,
      partition,
      server,
      behaviour,
      store,
      seed: 1,
      cohort,
      quorum,
      local: { epochs: 1, batch: BATCH },
      deadlineSeconds,
      maxNorm,
    },
    initial.slice(),
    new Float32Array(0),
  );
  const reports: RoundReport[] = [];
  while (simulation.round < rounds) reports.push(await simulation.next());
  store.close();
  const test = Int32Array.from({ length: dataset.split('test').examples }, (_, i) => i);
  const none = new Float32Array(0);
  const { correct, examples } = await pool.evaluate(pool.publish(simulation.params, none), 'test', test);
  return { reports, params: simulation.params, accuracy: (100 * (correct ?? 0)) / examples };
}

/** What goes wrong with a client in a round; null where nothing does. */
const failures = ['left', 'late', 'nan', 'huge', 'labels'] as const;
function failureOf(client: number, round: number): (typeof failures)[number] | null {
  const rng = createRng(9).fork('failure', client, round);
  if (rng.uniform() < 0.6) return null;
  // Wrong labels are not to be seen by the server, and are fewer.
  const kind = rng.integer(21);
  return kind === 20 ? 'labels' : (failures[kind % 4] ?? null);
}

describe('a thousand failures of clients', () => {
  it('cost neither a round its end nor the model its accuracy', async () => {
    const DEADLINE = 5;
    const counts = new Map<string, number>();
    // `seconds` is not told the round: who is there is asked before.
    let current = 0;
    const behaviour: ClientBehaviour = {
      ...honest,
      available: (_, round) => {
        current = round;
        return true;
      },
      seconds: (client) => (failureOf(client, current) === 'late' ? 100 : 1),
      leaves: (client, round) => {
        const kind = failureOf(client, round);
        if (kind) counts.set(kind, (counts.get(kind) ?? 0) + 1);
        return kind === 'left';
      },
      attack: (client, round) => {
        const kind = failureOf(client, round);
        if (kind === 'nan') return { name: 'nan', factor: 1, seed: 1 };
        if (kind === 'huge') return { name: 'scale', factor: 1e4, seed: 1 };
        return kind === 'labels' ? { name: 'label-flip', factor: 1, seed: 1 } : null;
      },
    };
    const partition = iid(source, { clients: 100, seed: 1 });
    const options = { rounds: 50, cohort: 50, partition };
    const clean = await trained(options);
    const faulty = await trained({ ...options, behaviour, deadlineSeconds: DEADLINE, maxNorm: 20 });
    const injected = [...counts.values()].reduce((a, b) => a + b, 0);
    expect(injected).toBeGreaterThanOrEqual(990);
    for (const kind of failures) expect(counts.get(kind)).toBeGreaterThan(10);
    expect(faulty.reports).toHaveLength(50);
    for (const report of faulty.reports) {
      expect(report.seconds).toBeLessThanOrEqual(DEADLINE);
      expect(report.completed + report.dropped.length).toBe(50);
      expect(report.counted).toBe(true);
    }
    const named = faulty.reports.reduce((total, { dropped }) => total + dropped.length, 0);
    expect(named).toBe(injected - (counts.get('labels') ?? 0));
    const reasons = faulty.reports.flatMap(({ dropped }) => dropped.map(({ reason }) => reason));
    for (const why of [/left in the middle/, /the deadline is 5 s/, /is not finite/, /the norm of its update/])
      expect(reasons.some((reason) => why.test(reason))).toBe(true);
    expect(clean.accuracy).toBeGreaterThan(80);
    expect(Math.abs(faulty.accuracy - clean.accuracy)).toBeLessThanOrEqual(1);
  });

  it('leave the parameters alone where the quorum is never met', async () => {
    const behaviour = { ...honest, leaves: (client: number) => client % 2 === 0 };
    const partition = iid(source, { clients: 20, seed: 1 });
    const { reports, params } = await trained({ rounds: 3, cohort: 20, partition, behaviour, quorum: 11 });
    for (const report of reports) {
      expect(report.counted).toBe(false);
      expect(report.uncounted).toMatch(/10 clients answered, the quorum is 11/);
    }
    expect(params).toEqual(initial);
    const nobody = { ...honest, leaves: () => true };
    const empty = await trained({ rounds: 2, cohort: 20, partition, behaviour: nobody });
    expect(empty.reports.map(({ completed }) => completed)).toEqual([0, 0]);
    expect(empty.params).toEqual(initial);
  });
});

describe('clients with odd data', () => {
  it('do not stop a round: none at all, one example, one class', async () => {
    const labels = source.labels as ArrayLike<number>;
    const all = Array.from({ length: source.examples }, (_, i) => i);
    const threes = all.filter((i) => labels[i] === 3).slice(0, 30);
    const partition = partitionOf([[], all.slice(0, 200), threes, all.slice(200, 201)]);
    const { reports, params } = await trained({ rounds: 2, cohort: 4, partition });
    for (const { completed, dropped } of reports) {
      expect(completed).toBe(3);
      expect(dropped).toEqual([{ client: 0, reason: 'it has no examples' }]);
    }
    expect(params.every(Number.isFinite)).toBe(true);
    for (const strategy of ['fednova', 'krum', 'rfa', 'fedmedian']) {
      const other = await trained({ rounds: 1, cohort: 4, partition, strategy });
      expect(other.params.every(Number.isFinite)).toBe(true);
      expect(other.params).not.toEqual(initial);
    }
  });

  it('are learnt from where each has a single class', async () => {
    const partition = pathological(source, { clients: 20, classes: 1, seed: 1 });
    const { accuracy } = await trained({ rounds: 10, cohort: 20, partition });
    expect(accuracy).toBeGreaterThan(40);
  });

  it('are refused when alpha is too small to give every one something', () => {
    expect(() => dirichlet(source, { clients: 100, alpha: 0.001, min_size: 5, seed: 1 })).toThrow(
      /alpha 0.001 .* fewer than 5 .* raise alpha/,
    );
  });
});

describe('malicious clients', () => {
  it('are the share that was asked for, the same ones for a seed', () => {
    for (const share of [0, 0.1, 0.2, 0.25, 1]) {
      const bad = Array.from({ length: 200 }, (_, client) => isMalicious(client, share, 3));
      expect(bad.filter(Boolean)).toHaveLength(200 * share);
      expect(Array.from({ length: 200 }, (_, client) => isMalicious(client, share, 3))).toEqual(bad);
    }
    const first = (seed: number) => Array.from({ length: 50 }, (_, client) => isMalicious(client, 0.2, seed));
    expect(first(4)).not.toEqual(first(3));
  });

  describe('that are a fifth of each round', () => {
    const attacked = (name: string) =>
      clientBehaviour(behaviourSchema.parse({ attack: { name, share: 0.2, factor: 10 } }), 1);
    const attacks = ['sign-flip', 'label-flip'];
    // All are asked, so that it is a fifth in every round, as many as `malicious` says.
    const rounds = () => ({ rounds: 25, cohort: 20, partition: iid(source, { clients: 20, seed: 1 }) });
    let averaged = 0;
    beforeAll(async () => {
      averaged = (await trained(rounds())).accuracy;
    });

    // The aim is 3 (`bench federated/robust`); processors whose sums round otherwise move the worst of these, 2.4, by half a point.
    const POINTS = 3.5;

    it.each(attacks)('ruin averaging: %s', async (name) => {
      const { accuracy } = await trained({ ...rounds(), behaviour: attacked(name) });
      expect(accuracy).toBeLessThan(averaged - 20);
    });

    it.each<{ strategy: string; settings: object; points?: number }>([
      { strategy: 'fedmedian', settings: {} },
      { strategy: 'fedtrimmedavg', settings: { trim: 0.4 } },
      { strategy: 'multikrum', settings: { malicious: 4 } },
      { strategy: 'bulyan', settings: { malicious: 4 } },
      { strategy: 'rfa', settings: {} },
      // (Liars still pull, with as much as anybody: a fifth of them takes two fifths of each step away, and it learns later.)
      { strategy: 'normclip', settings: { clip_norm: 0.3 }, points: 6 },
    ])('cost $strategy a few points at most', async ({ strategy, settings, points = POINTS }) => {
      const own = { ...rounds(), strategy, settings };
      const clean = await trained(own);
      expect(clean.accuracy).toBeGreaterThan(averaged - 3);
      for (const name of attacks) {
        const { accuracy } = await trained({ ...own, behaviour: attacked(name) });
        expect(accuracy, name).toBeGreaterThan(clean.accuracy - points);
      }
    });

    it('cost krum a few points at most, which has less to begin with', async () => {
      const own = { ...rounds(), strategy: 'krum', settings: { malicious: 4 } };
      const clean = await trained(own);
      for (const name of attacks) {
        const { accuracy } = await trained({ ...own, behaviour: attacked(name) });
        expect(accuracy, name).toBeGreaterThan(clean.accuracy - POINTS);
      }
      // It takes one client's update; of more clients than are asked it is not always the same one's.
      const partition = iid(source, { clients: 40, seed: 1 });
      const many = await trained({ ...own, partition, settings: { malicious: 7 } });
      expect(many.accuracy).toBeGreaterThan(averaged - 20);
    });
  });

  it('are noticed where they send no numbers, and noise is bounded by the norm', async () => {
    const partition = iid(source, { clients: 20, seed: 1 });
    for (const { name, why } of [
      { name: 'nan', why: /is not finite/ },
      { name: 'gaussian', why: /the norm of its update/ },
    ]) {
      const behaviour = clientBehaviour(behaviourSchema.parse({ attack: { name, share: 0.2, factor: 5 } }), 1);
      const { reports } = await trained({ rounds: 1, cohort: 20, partition, behaviour, maxNorm: 20 });
      expect(reports[0]?.dropped).toHaveLength(4);
      for (const { client, reason } of reports[0]?.dropped ?? []) {
        expect(isMalicious(client, 0.2, 1)).toBe(true);
        expect(reason).toMatch(why);
      }
    }
  });
});
