import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { complete, type RunSummary, resolveConfig, type TaskCost, train } from '../../../src/index.ts';
import { continualMetrics } from '../../../src/schedulers/continual/index.ts';
import { writeClasses } from './table.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-costs-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const table = join(root, 'classes.csv');
writeClasses(table, { rows: 100 });

async function run(strategy: object, others: object = {}): Promise<RunSummary & { readonly dir: string }> {
  const finished = await complete(
    train(
      resolveConfig({
        run: { dir: root },
        model: { name: 'mlp', args: { hidden: [64, 64] } },
        data: { name: 'csv', path: table, label: 'label', validation: 0.2 },
        optim: { name: 'sgd', lr: 0.05, momentum: 0, clip_norm: null },
        batch: { global: 8, micro: 4 },
        scheduler: { name: 'continual', scenario: { stream: { name: 'split', tasks: 2 } }, strategy, ...others },
      }),
    ),
  );
  return { ...(finished.summary as RunSummary), dir: finished.dir };
}

const tasksOf = ({ tasks }: RunSummary): readonly TaskCost[] => tasks as readonly TaskCost[];
/** Four columns in, 64, 64, four classes out. */
const NUMBERS = 4 * 64 + 64 + 64 * 64 + 64 + 64 * 4 + 4;
/** Training examples of the two tasks are 42 and 38 of 100 rows; float32 columns and a class. */
const EXAMPLE = 4 * 4 + 4;

describe('costs of tasks', () => {
  it('replay: examples that count, and as many in the buffer as it has room for', async () => {
    const summary = await run({ name: 'er', buffer: 10, replay: 3 });
    // Five new examples a step; later tasks have three kept ones besides.
    expect(tasksOf(summary).map(({ steps, examples }) => [steps, examples])).toEqual([
      [9, 9 * 5],
      [8, 8 * 8],
    ]);
    for (const { memory, observed_steps: observed } of tasksOf(summary)) {
      expect(observed).toBe(0);
      expect(memory).toEqual({
        parameters: 4 * NUMBERS,
        slots: 0,
        examples: 10 * EXAMPLE,
        tensors: 0,
        total: 4 * NUMBERS + 10 * EXAMPLE,
      });
    }
    // Products forward, for weights and (but in the first layer) for inputs; what is left are biases, ReLU and the loss.
    const products = 2 * (3 * (4 * 64 + 64 * 64 + 64 * 4) - 4 * 64);
    const [first, second] = tasksOf(summary).map((cost) => cost.training_flops / cost.examples);
    expect(first).toBe(second);
    expect(first).toBeGreaterThan(products);
    expect(first).toBeLessThan(1.1 * products);
    const file = JSON.parse(readFileSync(join(summary.dir, 'accuracy.json'), 'utf8'));
    expect(file.tasks).toEqual(summary.tasks);
  });

  it('importance: observing steps, and what is kept for each weight', async () => {
    const [first, last] = tasksOf(await run({ name: 'ewc', samples: 7 })) as [TaskCost, TaskCost];
    expect([first.steps, first.observed_steps, first.examples]).toEqual([6 + 7, 7, (6 + 7) * 8]);
    expect([last.steps, last.observed_steps, last.examples]).toEqual([5, 0, 40]);
    expect(last.memory).toMatchObject({ slots: 3 * 4 * NUMBERS, examples: 0, tensors: 0 });
  });

  it('kept outputs, and all data of earlier tasks', async () => {
    const [dark] = tasksOf(await run({ name: 'der', buffer: 10 })) as [TaskCost];
    expect(dark.memory).toMatchObject({ examples: 10 * EXAMPLE, tensors: 10 * (4 + 1) * 4 });
    const cumulative = await run({ name: 'cumulative' });
    expect(tasksOf(cumulative).map(({ memory }) => memory.examples)).toEqual([42 * EXAMPLE, 42 * EXAMPLE]);
    // The diagonal of a run of that kind is what intransigence is measured against.
    const naive = await run({ name: 'naive' }, { reference: cumulative.dir });
    const difference = [0, 1].map(
      (task) => (cumulative.accuracy_matrix?.[task]?.[task] ?? 0) - (naive.accuracy_matrix?.[task]?.[task] ?? 0),
    );
    expect(naive.intransigence).toBeCloseTo(((difference[0] ?? 0) + (difference[1] ?? 0)) / 2, 12);
  });

  it('a reference of other tasks, or none, is refused', async () => {
    await expect(run({ name: 'naive' }, { reference: [0.5] })).rejects.toThrow(/1 accuracies, but there are 2 tasks/);
    await expect(run({ name: 'naive' }, { reference: 'no-such-run' })).rejects.toThrow(/no-such-run.*cannot be read/);
  });
});

describe('metrics of a matrix', () => {
  it('are those of a computation by hand', () => {
    const matrix = [
      [0.9, 0.3, 0.2],
      [0.8, 0.7, 0.4],
      [0.6, 0.75, 0.95],
    ];
    const metrics = continualMetrics(matrix, [0.1, 0.2, 0.3], [1, 0.8, 0.9]);
    const expected = {
      average_accuracy: (0.6 + 0.75 + 0.95) / 3,
      average_incremental_accuracy: (0.9 + (0.8 + 0.7) / 2 + (0.6 + 0.75 + 0.95) / 3) / 3,
      forgetting: (0.9 - 0.6 + (0.7 - 0.75)) / 2,
      backward_transfer: (0.6 - 0.9 + (0.75 - 0.7)) / 2,
      forward_transfer: (0.3 - 0.2 + (0.4 - 0.3)) / 2,
      intransigence: (1 - 0.9 + (0.8 - 0.7) + (0.9 - 0.95)) / 3,
    };
    for (const [name, value] of Object.entries(expected))
      expect(metrics[name as keyof typeof metrics], name).toBeCloseTo(value, 12);
  });
});
