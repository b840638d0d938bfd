import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import type { Dataset } from '../../../src/data/index.ts';
import { type RunEvent, type RunSummary, train } from '../../../src/index.ts';
import { nn } from '../../../src/modules/index.ts';
import { continualStrategy, type Scenario } from '../../../src/schedulers/continual/index.ts';
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

it.each(['packnet', 'hat', 'pnn', 'picle'])('%s refuses a scenario in which the task is not known', async (name) => {
  await expect(matrixOf(name, 'domain-incremental')).rejects.toThrow(/task-incremental/);
});

it('packnet: prunes the smallest free weights, and shows a task what it had, to the bit', () => {
  const { prune, open, show } = continualStrategy('packnet').transitions?.({}, {} as Scenario['shape']) ?? {};
  const value = Float32Array.of(0.5, -0.1, 0.3, -0.9, 0.2, 0.05);
  const names = ['owner', 'closed', 'hidden'].map((slot) => [`packnet.${slot}`, new Float32Array(6)] as const);
  const slots: Readonly<Record<string, Float32Array>> = {
    momentum: new Float32Array(6).fill(1),
    ...Object.fromEntries(names),
  };
  const param = { info: { path: 'a.weight', shape: [2, 3], decay: true }, value, slots };
  const pruning = { share: 0.5, heads: [], outputs: [] };
  prune?.(param, { task: 0, ...pruning });
  const first = Float32Array.of(0.5, 0, 0.3, -0.9, 0, 0);
  expect(value).toEqual(first);
  // Only what is kept is trained on; then only what was given back.
  expect([...(slots['packnet.closed'] ?? [])]).toEqual([0, 1, 0, 0, 1, 1]);
  expect([...(slots.momentum ?? [])]).toEqual([0, 0, 0, 0, 0, 0]);
  open?.(param, {});
  expect([...(slots['packnet.closed'] ?? [])]).toEqual([1, 0, 1, 1, 0, 0]);
  value.set([0.5, 0.7, 0.3, -0.9, -0.01, 0.6]);
  prune?.(param, { task: 1, ...pruning, share: 1 / 3 });
  const second = Float32Array.of(0.5, 0.7, 0.3, -0.9, 0, 0.6);
  expect(value).toEqual(second);
  for (const [task, shown] of [
    [0, first],
    [1, second],
    [0, first],
    [null, second],
  ] as const) {
    show?.(param, { task });
    expect(value).toEqual(shown);
  }
});

it.each(['packnet', 'hat', 'pnn', 'picle'])('%s refuses a model with statistics that go on changing', (name) => {
  const strategy = continualStrategy(name);
  const norm = nn.sequential([nn.linear(4, 4), nn.batchNorm(4), nn.activation('relu')]);
  const model = { layers: [{ name: 'a', module: norm }], loss: nn.crossEntropy() };
  const shape = { tasks: 2, outputs: 4 } as Scenario['shape'];
  expect(() => strategy.model?.(model, strategy.config.parse({}), shape, {} as Dataset)).toThrow(
    /a\.1 \(batchNorm\) has statistics/,
  );
});
