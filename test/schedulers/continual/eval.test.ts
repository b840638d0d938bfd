import { expect, it } from 'vitest';
import { formatEvaluation } from '../../../src/cli/eval.ts';
import { evaluateRun } from '../../../src/index.ts';
import { smallRuns } from './run.ts';

const run = smallRuns({ rows: 240, classes: 4 });
const stream = { name: 'split', tasks: 2 };

/** One that shows each task a model of its own, one that classifies by what it keeps, one with outputs kept of examples. */
it.each([
  { strategy: { name: 'packnet', retrain_epochs: 1 }, scenario: { name: 'task-incremental', stream }, epochs: 2 },
  { strategy: { name: 'icarl', buffer: 20 }, scenario: { stream }, epochs: 1 },
  { strategy: { name: 'der++', buffer: 20 }, scenario: { stream }, epochs: 1 },
])('plexus eval measures $strategy.name task by task, as the run did, on any mesh', async (scheduler) => {
  const { dir, summary, last } = await run(scheduler);
  const result = await evaluateRun(dir);
  expect(result).toMatchObject({ step: summary.steps, loss: null, microbatches: null, baselines: {} });
  expect(result.metrics).toEqual({ average_accuracy: summary.accuracy, task_accuracy: last, tasks_learnt: 2 });
  const sharded = await evaluateRun(dir, { overrides: ['parallel.data=2', 'batch.micro=4'] });
  expect(sharded.metrics).toEqual(result.metrics);
  expect(formatEvaluation(result).split('\n').at(-1)?.trim().split(/ +/)).toEqual([
    '2',
    (last[1] as number).toFixed(4),
  ]);
  await expect(evaluateRun(dir, { split: 'train' })).rejects.toThrow(/evaluated on its tasks' validation or test/);
});
