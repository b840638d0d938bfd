import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { type RunEvent, type RunSummary, train } from '../../../src/index.ts';
import { small } from './small.ts';
import { writeClasses } from './table.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-isolation-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const table = join(root, 'classes.csv');
writeClasses(table, { rows: 480 });

const SGD = { name: 'sgd', lr: 0.05, momentum: 0.9, clip_norm: null };
const ADAMW = { name: 'adamw', lr: 0.01 };

/** Three tasks with permuted columns and outputs of their own; `matrix[t][k]`: accuracy on task k after task t. */
async function matrixOf(name: string, scenario = 'task-incremental', optim: object = SGD): Promise<number[][]> {
  const { strategy } = small[name] ?? {};
  const config = {
    model: { name: 'mlp', args: { hidden: [24, 24] } },
    data: { name: 'csv', path: table, label: 'label', validation: 0.25 },
    optim,
    batch: { global: 8, micro: 8 },
    scheduler: {
      name: 'continual',
      epochs: 4,
      scenario: { name: scenario, stream: { name: 'permuted', tasks: 3 } },
      strategy: { name, ...strategy },
    },
    run: { dir: root },
  };
  let summary: RunSummary | null = null;
  for await (const event of train(config) as AsyncIterable<RunEvent>)
    if (event.type === 'finished') summary = event.summary;
  return (summary as unknown as { accuracy_matrix: number[][] }).accuracy_matrix;
}

const known = (matrix: readonly (readonly number[])[], task: number): number[] =>
  matrix.slice(task).map((row) => row[task] as number);

it.each([
  ['packnet', ADAMW],
  ['hat', SGD],
  ['pnn', ADAMW],
])('%s: no answer to an earlier task changes, with $name', { timeout: 60_000 }, async (name, optim) => {
  const matrix = await matrixOf(name, 'task-incremental', optim);
  for (const task of [0, 1]) expect(new Set(known(matrix, task)).size).toBe(1);
  // Each is learnt (a guess is right in a quarter of the cases), in what the others have left of the network.
  for (const task of [0, 1, 2]) expect(matrix[task]?.[task]).toBeGreaterThan(0.55);
});

it('naive fine-tuning forgets where these do not', { timeout: 60_000 }, async () => {
  const matrix = await matrixOf('naive');
  expect(new Set(known(matrix, 0)).size).toBeGreaterThan(1);
});

it.each(['packnet', 'hat', 'pnn'])('%s refuses a scenario in which the task is not known', async (name) => {
  await expect(matrixOf(name, 'domain-incremental')).rejects.toThrow(/task-incremental/);
});
