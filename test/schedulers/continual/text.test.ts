import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { complete, evaluateRun, type RunSummary, resolveConfig, train } from '../../../src/index.ts';
import { keyTasks } from '../../../src/schedulers/continual/index.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-eras-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Speeches of three eras, each with words of its own. */
const speeches = join(root, 'speeches');
mkdirSync(speeches);
const words = ['the republic', 'our railroads', 'new machines'];
for (const [era, first] of [1800, 1850, 1900].entries())
  for (const year of [first, first + 1])
    writeFileSync(join(speeches, `${year}_some_one_r.txt`), `${words[era]} and ${year % 7}. `.repeat(40));

/** A table whose rows are of one of two sites, which differ. */
const sites = join(root, 'sites.csv');
writeFileSync(
  sites,
  [
    'x,y,site,label',
    ...Array.from({ length: 80 }, (_, i) => `${i % 5},${i % 3},s${i % 2},${i % 2 ? i % 4 : i % 3}`),
  ].join('\n'),
);

const text = {
  model: { name: 'transformer-lm', args: { layers: 1, dim: 16, heads: 2 } },
  data: { name: 'sotu', path: speeches, context: 16, tokenizer: { kind: 'char' }, validation: 0.2 },
  optim: { name: 'adamw', lr: 1e-2 },
  batch: { global: 4, micro: 2 },
};
const eras = { name: 'domain-incremental', stream: { name: 'natural', key: 'year', bounds: [1850, 1900] } };

async function run(scheduler: object, config: object = text): Promise<RunSummary & { readonly dir: string }> {
  const finished = await complete(
    train(resolveConfig({ run: { dir: root }, ...config, scheduler: { name: 'continual', ...scheduler } })),
  );
  return { ...(finished.summary as RunSummary), dir: finished.dir };
}

describe('eras of text', () => {
  it.each([
    { strategy: { name: 'naive' }, parallel: { data: 2 } },
    { strategy: { name: 'er', buffer: 8 }, parallel: { pipeline: 2 } },
    { strategy: { name: 'ewc', samples: 4 }, parallel: { data: 2 } },
    { strategy: { name: 'si' }, parallel: { pipeline: 2 } },
  ])('$strategy.name trains a language model era by era, the same on $parallel', async ({ strategy, parallel }) => {
    const summary = await run({ scenario: eras, strategy });
    expect(summary.loss_matrix).toHaveLength(3);
    // What each era is trained on is learnt.
    const [first, second] = summary.loss_matrix as number[][];
    expect(second?.[1]).toBeLessThan(first?.[1] as number);
    const sharded = await run({ scenario: eras, strategy }, { ...text, parallel });
    expect(sharded.loss_matrix).toEqual(summary.loss_matrix);
    expect(sharded.accuracy_matrix).toEqual(summary.accuracy_matrix);
    expect(sharded.weights_sha256).toBe(summary.weights_sha256);
    // All eras together are the whole validation split, as it is evaluated without tasks.
    const whole = await evaluateRun(summary.dir, { overrides: ['batch.micro=1', 'scheduler={name: sync}'] });
    expect(summary.val_loss).toBeCloseTo(whole.loss as number, 5);
    const { loss, metrics } = await evaluateRun(summary.dir);
    expect(metrics).toMatchObject({ task_accuracy: summary.accuracy_matrix?.at(-1), tasks_learnt: 3 });
    expect(loss).toBe(summary.val_loss);
  });

  it('strategies that go by classes, and scenarios that do, are refused', async () => {
    await expect(run({ scenario: eras, strategy: { name: 'der' } })).rejects.toThrow(
      /strategy der needs examples that have a class, but sotu is text; for text there are naive,.* er,.* si/,
    );
    await expect(run({ scenario: { stream: { name: 'split' } } })).rejects.toThrow(
      /sotu has no classes to make tasks of: for text use scenario \{name: domain-incremental/,
    );
    await expect(
      run({ scenario: { ...eras, stream: { ...eras.stream, key: 'party' } }, strategy: { name: 'naive' } }),
    ).rejects.toThrow(/bounds are for keys that are numbers, but party has 'Republican'/);
  });
});

describe('tasks by a key', () => {
  it('of a table: the same classes at each site', async () => {
    const summary = await run(
      { scenario: { name: 'domain-incremental', stream: { name: 'natural', key: 'site', values: [['s1'], ['s0']] } } },
      {
        model: { name: 'mlp', args: { hidden: [8] } },
        data: { name: 'csv', path: sites, columns: ['x', 'y'], label: 'label', validation: 0.25 },
        optim: { name: 'sgd', lr: 0.05 },
        batch: { global: 4, micro: 4 },
      },
    );
    expect(summary.accuracy_matrix).toHaveLength(2);
  });

  it('are bounds, lists of values, or shares of about as many examples', () => {
    const keys = { train: ['3', '1', '10', '1', '2', '2'], evaluation: ['4'] };
    const of = (stream: object, values: string[]) => {
      const { tasks, taskOf } = keyTasks({ name: 'natural', key: 'k', tasks: 2, ...stream }, keys);
      return [tasks, values.map(taskOf)];
    };
    expect(of({ bounds: [10, 2] }, ['1', '2', '9', '10'])).toEqual([3, [0, 1, 1, 2]]);
    expect(of({ values: [['2', '3'], ['1']] }, ['1', '2', '3', '10'])).toEqual([2, [1, 0, 0, -1]]);
    // 1, 1, 2 | 2, 3, 10: the middle of the twos is the middle.
    expect(of({}, ['1', '2', '3', '10', '4'])).toEqual([2, [0, 1, 1, 1, -1]]);
  });
});
