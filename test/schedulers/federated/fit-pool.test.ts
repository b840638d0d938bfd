import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { dataSchema, iid, openDataset, type PreparedData, prepareData } from '../../../src/data/index.ts';
import { optimSchema } from '../../../src/optim/index.ts';
import {
  type ClientFit,
  ClientFitter,
  clientBatches,
  type FitJob,
  FitPool,
} from '../../../src/schedulers/federated/index.ts';

let data: PreparedData;
const job = (objective: FitJob['objective'] = { name: 'none', config: {} }): FitJob => ({
  seed: 3,
  model: { name: 'mlp', args: { hidden: [16] } },
  optim: optimSchema.parse({ name: 'sgd', lr: 0.1, momentum: 0 }),
  data,
  engine: { kind: 'onnx', device: 'cpu', threads: 1 },
  objective,
  batch: 8,
});
const start = (size: number) => Float32Array.from({ length: size }, (_, i) => Math.fround(Math.sin(i * 7.1) / 20));

function cohortOf(clients: readonly number[], round = 0): ClientFit[] {
  const dataset = openDataset(data);
  const partition = iid({ examples: dataset.split('train').examples, labels: null }, { clients: 20, seed: 1 });
  return clients.map((client) => ({
    client,
    round,
    // Unequal sizes: the last batch of an epoch is smaller.
    examples: partition.examples(client).slice(0, 20 + client),
    epochs: 2,
    maxSteps: null,
    firstStep: 0,
    weight: 20 + client,
    clipNorm: null,
    kept: {},
  }));
}

beforeAll(async () => {
  data = await prepareData(dataSchema.parse({ name: 'mnist', limit: 1000, validation: 0.1 }));
});

const pools: FitPool[] = [];
afterAll(async () => {
  for (const each of pools) await each.close();
});

describe('clients trained on a pool of threads', () => {
  const pool = async (threads: number, objective?: FitJob['objective']) => {
    const made = await FitPool.start({ job: job(objective), threads });
    pools.push(made);
    return made;
  };

  it('give the same bits with one thread, with two, and one by one', async () => {
    const cohort = cohortOf(Array.from({ length: 13 }, (_, i) => i));
    const sums: Float32Array[] = [];
    for (const threads of [1, 2]) {
      const made = await pool(threads);
      const { sum, reports } = await made.sum(made.publish(start(made.paramsSize), start(0)), cohort);
      expect(reports.map(({ client }) => client)).toEqual(cohort.map(({ client }) => client));
      sums.push(sum as Float32Array);
    }
    expect(sums[1]).toEqual(sums[0]);
    const fitter = await ClientFitter.create(job());
    const params = start(fitter.sizes.params);
    const into = new SharedArrayBuffer(4 * params.length);
    const made = pools[0] as FitPool;
    await fitter.fit({ start: made.publish(params, start(0)), clients: cohort, mode: 'sum', into });
    expect(new Float32Array(into)).toEqual(sums[0]);
    await fitter.dispose();
  });

  it('give each update by itself', async () => {
    const made = pools[1] as FitPool;
    const shared = made.publish(start(made.paramsSize), start(0));
    const cohort = cohortOf([4, 9]);
    const before = made.trained;
    const [a, b] = await made.each(shared, cohort);
    const { sum } = await made.sum(shared, cohort);
    expect(made.trained - before).toBe(4);
    const weighted = (update: Float32Array | undefined, weight: number, i: number) =>
      Math.fround((update?.[i] as number) * weight);
    expect(a?.report.steps).toBe(6);
    sum?.forEach((value, i) => {
      expect(value).toBe(Math.fround(weighted(a?.update, 24, i) + weighted(b?.update, 29, i)));
    });
  });

  it('learn', async () => {
    const made = pools[1] as FitPool;
    const examples = Int32Array.from({ length: 100 }, (_, i) => i);
    let params = start(made.paramsSize);
    const before = await made.evaluate(made.publish(params, start(0)), 'validation', examples);
    for (let round = 0; round < 6; round++) {
      const cohort = cohortOf([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], round);
      const { sum, reports } = await made.sum(made.publish(params, start(0)), cohort);
      const total = reports.reduce((weights, { weight }) => weights + weight, 0);
      params = params.map((value, i) => value + (sum?.[i] as number) / total);
    }
    const after = await made.evaluate(made.publish(params, start(0)), 'validation', examples);
    expect(after.loss).toBeLessThan(before.loss);
    expect(after.correct).toBeGreaterThan((before.correct ?? 0) + 20);
  });

  it('keep tensors of their own, and a client that diverges spoils nothing', async () => {
    const made = await pool(2, { name: 'control-variates', config: {} });
    const zeros = new Float32Array(made.paramsSize);
    const shared = made.publish(start(made.paramsSize), start(0), { server: zeros });
    const cohort = cohortOf([1, 2]);
    const poisoned = { ...(cohort[0] as ClientFit), kept: { own: zeros.slice().fill(Number.NaN) } };
    const { sum, reports } = await made.sum(shared, [poisoned, cohort[1] as ClientFit]);
    expect(reports[0]?.problem).toMatch(/diverged/);
    const alone = await made.sum(shared, [cohort[1] as ClientFit]);
    expect(sum).toEqual(alone.sum);
    expect(reports[1]?.kept.own?.some((value) => value !== 0)).toBe(true);
    const nobody = await made.sum(shared, [{ ...poisoned, examples: new Int32Array(0) }]);
    expect(nobody.sum).toBeNull();
    expect(nobody.reports[0]?.problem).toMatch(/no examples/);
  });
});

describe('layers of a client of its own', () => {
  it('are never sent, and are what its next fit begins with', async () => {
    const fitter = await ClientFitter.create(job({ name: 'personal-layers', config: { paths: ['head.*'] } }));
    const params = start(fitter.sizes.params);
    const made = pools[0] as FitPool;
    const shared = made.publish(params, start(0));
    const [client] = cohortOf([3]) as [ClientFit];
    const into = new SharedArrayBuffer(4 * params.length);
    const head = 10 + 16 * 10;
    const [first] = await fitter.fit({ start: shared, clients: [client], mode: 'each', into });
    const update = new Float32Array(into).slice();
    // Path order puts the head first.
    expect(update.subarray(0, head).every((value) => value === 0)).toBe(true);
    expect(update.subarray(head).some((value) => value !== 0)).toBe(true);
    const own = first?.kept.personal as Float32Array;
    expect(own).toHaveLength(head);
    expect(own.some((value, i) => value !== params[i])).toBe(true);
    // The same as plain training that begins with these values there.
    const [second] = await fitter.fit({
      start: shared,
      clients: [{ ...client, kept: { personal: own } }],
      mode: 'each',
      into,
    });
    const plain = await ClientFitter.create(job());
    const mixed = params.map((value, i) => own[i] ?? value);
    const other = new SharedArrayBuffer(4 * params.length);
    await plain.fit({ start: made.publish(mixed, start(0)), clients: [client], mode: 'each', into: other });
    expect(new Float32Array(into).subarray(head)).toEqual(new Float32Array(other).subarray(head));
    expect(second?.loss).toBeLessThan(first?.loss ?? 0);
    await fitter.dispose();
    await plain.dispose();
  });
});

describe('batches of a client', () => {
  it('go through its examples once an epoch, in an order of their own', () => {
    const examples = Int32Array.from({ length: 11 }, (_, i) => 100 + i);
    const order = { seed: 1, round: 2, client: 3, examples, epochs: 2, batch: 4, maxSteps: null };
    const batches = clientBatches(order);
    expect(batches.map((batch) => batch.length)).toEqual([4, 4, 3, 4, 4, 3]);
    const epoch = (n: number) => batches.slice(3 * n, 3 * n + 3).flatMap((batch) => [...batch]);
    expect([...epoch(0)].sort()).toEqual([...examples]);
    expect([...epoch(1)].sort()).toEqual([...examples]);
    expect(epoch(1)).not.toEqual(epoch(0));
    expect(clientBatches({ ...order, maxSteps: 4 })).toEqual(batches.slice(0, 4));
    expect(clientBatches({ ...order, round: 3 })).not.toEqual(batches);
  });
});
