import '@tensorflow/tfjs-backend-cpu';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type RunEvent, type RunSummary, train } from '../../../src/index.ts';
import { type Context, initState } from '../../../src/modules/index.ts';
import { energyOf, outside, principalDirections } from '../../../src/schedulers/continual/principal-directions.ts';
import { extendBasis } from '../../../src/schedulers/continual/strategies/gradient-projection.ts';
import { lateralCircuit } from '../../../src/schedulers/continual/strategies/hebbian-projection.ts';
import { createRng } from '../../../src/tensor/index.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-projection-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const SIZE = 20;

/** Rows around few directions, each of less energy than the one before, with a little of all others. */
function rowsOf(count: number, directions: number, seed: number): Float64Array[] {
  const rng = createRng(seed);
  const axes = Array.from({ length: directions }, () => Float64Array.from({ length: SIZE }, () => rng.normal()));
  return Array.from({ length: count }, () => {
    const row = Float64Array.from({ length: SIZE }, () => 0.02 * rng.normal());
    for (const [k, axis] of axes.entries()) {
      const along = rng.normal() * 0.7 ** k;
      for (let i = 0; i < SIZE; i++) row[i] = (row[i] as number) + along * (axis[i] as number);
    }
    return row;
  });
}

const total = (rows: readonly Float64Array[]): number => rows.reduce((sum, row) => sum + energyOf(row), 0);

it('finds the principal directions of rows', () => {
  const rows = rowsOf(40, 4, 1);
  const found = principalDirections(rows);
  expect(found.reduce((sum, { energy }) => sum + energy, 0) / total(rows)).toBeCloseTo(1, 10);
  for (const [i, { unit, energy }] of found.slice(0, 5).entries()) {
    // What it says of a direction is what the rows have along it, and none of the others have a part in it.
    const along = total(rows) - total(rows.map((row) => outside(row, [unit])));
    expect(along / total(rows)).toBeCloseTo(energy / total(rows), 10);
    for (const other of found.slice(0, i)) expect(energyOf(outside(unit, [other.unit]))).toBeCloseTo(1, 10);
  }
  // No direction has more than the first: power iteration ends there.
  let unit = Float64Array.from({ length: SIZE }, () => 1);
  for (let step = 0; step < 200; step++) {
    const next = new Float64Array(SIZE);
    for (const row of rows) {
      const inner = row.reduce((sum, value, i) => sum + value * (unit[i] as number), 0);
      for (let i = 0; i < SIZE; i++) next[i] = (next[i] as number) + inner * (row[i] as number);
    }
    const length = Math.sqrt(energyOf(next));
    unit = next.map((value) => value / length);
  }
  expect(energyOf(outside(unit, [found[0]?.unit as Float64Array]))).toBeLessThan(1e-8);
});

it('a basis takes as few directions as have the share, on top of those before', () => {
  const rows = rowsOf(40, 3, 2);
  const basis = extendBasis([], rows, 0.99);
  expect(basis).toHaveLength(3);
  expect(total(rows.map((row) => outside(row, basis))) / total(rows)).toBeLessThan(0.01);
  expect(extendBasis(basis, rows, 0.99)).toHaveLength(3);
  const others = rowsOf(40, 2, 3);
  const extended = extendBasis(basis, others, 0.99);
  expect(extended).toHaveLength(5);
  expect(total(others.map((row) => outside(row, extended))) / total(others)).toBeLessThan(0.01);
});

it('lateral connections come to span the principal directions of what streams by', async () => {
  await tf.setBackend('cpu');
  const rows = rowsOf(200, 4, 4);
  const { state = {}, params, project } = lateralCircuit({ neurons: 4, rate: 0.1 }, SIZE, 1);
  const stage = tf.tensor(params.stage?.init(createRng(0), [4]) as Float32Array);
  const named = Object.entries(state).map(([path, spec]) => ({ path, spec }));
  let now = Object.fromEntries(
    Object.entries(initState(named, 1)).map(([name, { data, shape }]) => [
      name,
      tf.tensor(data as Float32Array, [...shape]),
    ]),
  );
  for (let step = 0; step < 600; step++) {
    const batch = Array.from({ length: 20 }, (_, i) => [...(rows[(20 * step + i) % 200] as Float64Array)]);
    const contributed: Record<string, tf.Tensor> = {};
    const contribute = (name: string, value: tf.Tensor): void => {
      contributed[name] = value;
    };
    project(tf.tensor2d(batch), { stage }, { state: now, contribute } as unknown as Context);
    now = Object.fromEntries(
      named.map(({ path, spec }) => [path, spec.update(now[path] as tf.Tensor, contributed[path] as tf.Tensor, 1)]),
    );
  }
  const lateral = (await now.lateral?.array()) as number[][];
  for (const { unit } of principalDirections(rows).slice(0, 4)) {
    let left = unit.slice();
    // Taken out as the layer does: minus the sum of y_k h_k.
    const y = lateral.map((row) => row.reduce((sum, value, i) => sum + value * (unit[i] as number), 0));
    left = left.map(
      (value, i) => value - lateral.reduce((sum, row, k) => sum + (y[k] as number) * (row[i] as number), 0),
    );
    expect(energyOf(left)).toBeLessThan(0.02);
  }
});

const table = join(root, 'table.csv');
beforeAll(() => {
  const rng = createRng(11);
  const middles = Array.from({ length: 4 }, () => Array.from({ length: 24 }, () => rng.normal()));
  const line = (_: unknown, i: number): string =>
    [...(middles[i % 4] as number[]).map((value) => (value + 0.5 * rng.normal()).toFixed(4)), `c${i % 4}`].join(',');
  const head = [...Array.from({ length: 24 }, (_, i) => `x${i}`), 'label'].join(',');
  writeFileSync(table, [head, ...Array.from({ length: 480 }, line)].join('\n'));
});

async function run(model: object, lr: number, strategy: object): Promise<{ accuracy: number; forgetting: number }> {
  const config = {
    model,
    data: { name: 'csv', path: table, label: 'label', validation: 0.25 },
    optim: { name: 'sgd', lr, momentum: 0.5, clip_norm: null },
    batch: { global: 8, micro: 8 },
    scheduler: {
      name: 'continual',
      epochs: 3,
      scenario: { name: 'domain-incremental', stream: { name: 'permuted', tasks: 3 } },
      strategy,
    },
    run: { dir: root },
  };
  let summary: RunSummary | null = null;
  for await (const event of train(config) as AsyncIterable<RunEvent>)
    if (event.type === 'finished') summary = event.summary;
  const { average_accuracy, forgetting } = summary as unknown as { average_accuracy: number; forgetting: number };
  return { accuracy: average_accuracy, forgetting };
}

const GPM = { name: 'gpm', threshold: 0.9, samples: 60 };
const HEBBIAN = { name: 'hebbian-projection', neurons: 6 };

it.each([
  { model: { name: 'mlp', args: { hidden: [48] } }, lr: 0.05, strategies: [GPM, HEBBIAN] },
  { model: { name: 'spiking-mlp', args: { hidden: [48], steps: 3 } }, lr: 0.2, strategies: [HEBBIAN] },
])(
  '$model.name: projections forget less than half as much as naive fine-tuning, and know more',
  {
    timeout: 60_000,
  },
  async ({ model, lr, strategies }) => {
    const naive = await run(model, lr, { name: 'naive' });
    for (const strategy of strategies) {
      const projected = await run(model, lr, strategy);
      expect(projected.forgetting).toBeLessThan(naive.forgetting / 2);
      expect(projected.accuracy).toBeGreaterThan(naive.accuracy);
    }
  },
);
