import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import {
  CheckpointReader,
  complete,
  newestCheckpoint,
  type RunEvent,
  type RunSummary,
  resume,
  train,
} from '../../../src/index.ts';
import { jsonOf } from '../../../src/schedulers/continual/arrays.ts';
import { cholesky, gaussianOf, logLikelihood, posterior } from '../../../src/schedulers/continual/gaussian.ts';
import type { SearchLog } from '../../../src/schedulers/continual/module-search.ts';
import { createRng } from '../../../src/tensor/index.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-picle-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Three tasks of four classes: two kinds of inputs, then the first kind again with few examples. */
const table = join(root, 'tasks.csv');
const rng = createRng(3);
const kinds = { a: [0, 1, 2, 3], b: [2, 0, 3, 1], c: [0, 1, 2, 3] };
const lines = Object.entries(kinds).flatMap(([key, order], task) =>
  Array.from({ length: key === 'c' ? 60 : 400 }, (_, i) => {
    const label = i % 4;
    const values = order.map((at) => (at === label ? 1.5 : 0) + 0.6 * rng.normal() + (task % 2));
    return [...values.map((value) => value.toFixed(4)), key, `c${label}`].join(',');
  }),
);
writeFileSync(table, ['x0,x1,x2,x3,key,label', ...lines].join('\n'));

const scheduler = (strategy: object) => ({
  name: 'continual',
  epochs: 4,
  scenario: { name: 'task-incremental', stream: { name: 'natural', key: 'key', values: [['a'], ['b'], ['c']] } },
  strategy,
});

async function run(strategy: object): Promise<{ summary: RunSummary; dir: string }> {
  const config = {
    model: { name: 'mlp', args: { hidden: [16, 16] } },
    data: { name: 'csv', path: table, label: 'label', columns: ['x0', 'x1', 'x2', 'x3'], validation: 0.5 },
    optim: { name: 'adamw', lr: 0.01 },
    batch: { global: 8, micro: 8 },
    train: { checkpoint_every: 50, keep_last: 100 },
    run: { dir: root },
    scheduler: scheduler(strategy),
  };
  let [summary, dir] = [null as RunSummary | null, ''];
  for await (const event of train(config) as AsyncIterable<RunEvent>) {
    if (event.type === 'started') dir = event.dir;
    if (event.type === 'finished') summary = event.summary;
  }
  return { summary: summary as RunSummary, dir };
}

async function logOf(dir: string, step?: number): Promise<SearchLog> {
  const { path, index } = await newestCheckpoint(join(dir, 'checkpoints'), step);
  const reader = await CheckpointReader.open(path, index);
  const log = jsonOf(await reader.read('scheduler/kept/picle')) as SearchLog;
  await reader.close();
  return log;
}

const matrixOf = ({ accuracy_matrix }: RunSummary): number[][] => accuracy_matrix as number[][];

it('picle: a task that comes again has its modules of the first time; trials are as many for each task', {
  timeout: 60_000,
}, async () => {
  const { summary, dir } = await run({ name: 'picle', validation: 0.4, trial_epochs: 2 });
  const { compositions, trials, path } = await logOf(dir);
  const matrix = matrixOf(summary);
  // The first inputs are recognised, and their modules taken, down to the head, which has to answer by other outputs.
  expect(path).toEqual([0, 0, 0]);
  expect(compositions[2]).toEqual([0, 0, 0]);
  // One all new, three prefixes, two suffixes, whatever is in the library.
  expect(trials.map((each) => each.length)).toEqual([1, 6, 6]);
  expect(trials[2]?.slice(0, 5).map(({ composition }) => composition.join(''))).toEqual([
    '222',
    '000',
    '002',
    '022',
    '200',
  ]);
  // No answer to an earlier task changes.
  for (const task of [0, 1]) expect(new Set(matrix.slice(task).map((row) => row[task])).size).toBe(1);
  const naive = matrixOf((await run({ name: 'naive' })).summary);
  expect(matrix[2]?.[2]).toBeGreaterThanOrEqual(naive[2]?.[2] as number);
  expect(naive[2]?.[1]).toBeLessThan(matrix[2]?.[1] as number);
  // From the middle of a trial.
  const during = (await logOf(dir, 250)).trials.at(-1);
  expect([during?.length, during?.at(-1)?.accuracy]).toEqual([5, undefined]);
  cpSync(dir, `${dir}-cut`, { recursive: true });
  const again = await complete(resume(`${dir}-cut`, [], { step: 250 }));
  expect(again.summary?.weights_sha256).toBe(summary.weights_sha256);
  expect(again.summary?.losses_sha256).toBe(summary.losses_sha256);
  expect(again.summary?.accuracy_matrix).toEqual(matrix);
});

it('normal distributions and Gaussian processes, against closed forms', () => {
  expect(cholesky([Float64Array.of(4, 2), Float64Array.of(2, 5)])).toEqual([
    Float64Array.of(2, 0),
    Float64Array.of(1, 2),
  ]);
  expect(() => cholesky([Float64Array.of(1, 2), Float64Array.of(2, 1)])).toThrow(/not positive definite/);
  // One number: mean 1, variance 4, and 5 % of that.
  const density = (x: number): number => -((x - 1) ** 2) / (2 * 4.2) - Math.log(2 * Math.PI * 4.2) / 2;
  const gaussian = gaussianOf([Float64Array.of(-1), Float64Array.of(3)]);
  const score = logLikelihood(gaussian, [Float64Array.of(2), Float64Array.of(7)]);
  expect(score).toBeCloseTo((density(2) + density(7)) / 2, 6);
  // A density is at least as high where it was fitted: also with a covariance that is not diagonal.
  const rows = Array.from({ length: 200 }, () => {
    const [a, b] = [rng.normal(), rng.normal()];
    return Float64Array.of(a, 0.9 * a + 0.1 * b);
  });
  const flipped = rows.map(([a, b]) => Float64Array.of(a as number, -(b as number)));
  expect(logLikelihood(gaussianOf(rows), rows)).toBeGreaterThan(logLikelihood(gaussianOf(rows), flipped) + 1);
  // Observed 2 at the first of two points with covariance 1/2: mean 1 at the other, and 3/4 of its variance is left.
  const [at, other] = posterior([Float64Array.of(1, 0.5), Float64Array.of(0.5, 1)], { at: [0], values: [2] }, 0);
  expect(at).toEqual({ mean: 2, deviation: 0 });
  expect(other?.mean).toBeCloseTo(1, 12);
  expect(other?.deviation).toBeCloseTo(Math.sqrt(0.75), 12);
});
