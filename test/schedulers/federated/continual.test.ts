import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { dataSchema, openDataset, prepareData, view } from '../../../src/data/index.ts';
import { complete, type RunEvent, type RunSummary, resolveConfig, resume, train } from '../../../src/index.ts';
import { continualStrategies, makeScenario } from '../../../src/schedulers/continual/index.ts';
import { scenarioSchema } from '../../../src/schedulers/continual/schema.ts';
import { type ClientStream, clientStream } from '../../../src/schedulers/federated/continual/client-stream.ts';
import type { ContinualJob } from '../../../src/schedulers/federated/continual/job.ts';
import { writeClasses } from '../continual/table.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'plexus-federated-continual-'));
  writeClasses(join(dir, 'classes.csv'), { rows: 480 });
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Two tasks of two classes each over eight rounds; domain-incremental unless it says otherwise. */
const config = (id: string, strategy: object, { scenario = 'domain-incremental', ...scheduler }: Given = {}) => ({
  seed: 5,
  model: { name: 'mlp', args: { hidden: [16] } },
  data: { name: 'csv', path: join(dir, 'classes.csv'), label: 'label', validation: 0.2 },
  optim: { name: 'sgd', lr: 0.1, momentum: 0, clip_norm: null },
  run: { dir, id },
  scheduler: {
    ...{ name: 'fedavg', clients: 6, cohort: 3, local_epochs: 2, local_batch: 8, threads: 1 },
    ...scheduler,
    continual: {
      ...{ rounds_per_task: 4, strategy },
      scenario: { name: scenario, stream: { name: 'split', tasks: 2 } },
    },
  },
});

interface Given {
  readonly scenario?: string;
  readonly [key: string]: unknown;
}

async function run(id: string, strategy: object, given: Given = {}) {
  const events: RunEvent[] = [];
  const { summary } = await complete(train(config(id, strategy, given)), (event) => events.push(event));
  return { summary: summary as RunSummary, events };
}

/** The same run with two threads, interrupted in the second task and then resumed. */
async function interrupted(id: string, strategy: object, given: Given = {}): Promise<RunSummary> {
  const stop = new AbortController();
  for await (const event of train(config(id, strategy, { ...given, threads: 2 }), { signal: stop.signal }))
    if (event.type === 'step' && event.step === 6) stop.abort();
  return (await complete(resume(join(dir, id)))).summary as RunSummary;
}

const ewc = { name: 'ewc', samples: 25 };
const er = { name: 'er', buffer: 40 };

describe('federated continual learning', () => {
  it('forgets less with ewc, tells of each task, and has the same bits with two threads and when interrupted', async () => {
    const naive = await run('naive', { name: 'naive' });
    const { summary, events } = await run('ewc', ewc);
    expect(naive.summary.forgetting).toBeGreaterThan(0.1);
    expect(summary.forgetting).toBeLessThan((naive.summary.forgetting as number) / 2);
    const told = events.filter(({ type }) => type === 'task');
    expect(told).toMatchObject([
      { task: 1, tasks: 2, step: 4 },
      { task: 2, tasks: 2, step: 8 },
    ]);
    expect(told.map((event) => 'accuracies' in event && event.accuracies)).toEqual(summary.accuracy_matrix);
    const file = JSON.parse(readFileSync(join(dir, 'ewc', 'accuracy.json'), 'utf8'));
    expect(file).toMatchObject({ matrix: summary.accuracy_matrix, forgetting: summary.forgetting });
    expect(await interrupted('ewc-cut', ewc)).toMatchObject(same(summary));
  }, 60_000);

  it('forgets less with replay, to the same bits, and knows nothing of classes that have not come', async () => {
    const given = { scenario: 'class-incremental' };
    const naive = await run('naive-classes', { name: 'naive' }, given);
    const { summary } = await run('er', er, given);
    expect(summary.forgetting).toBeLessThan((naive.summary.forgetting as number) - 0.1);
    // Only outputs of the tasks so far may be the answer, and before all of them have come nobody has been asked for the others.
    expect(naive.summary.accuracy_matrix?.[0]?.[0]).toBeGreaterThan(0.8);
    expect(await interrupted('er-cut', er, given)).toMatchObject(same(summary));
  }, 60_000);

  it('keeps what losses keep, next to what the federated strategy keeps', async () => {
    const given = { name: 'scaffold', scenario: 'class-incremental' };
    const dark = { name: 'der++', buffer: 40 };
    const { summary } = await run('dark', dark, given);
    expect(await interrupted('dark-cut', dark, given)).toMatchObject(same(summary));
  }, 60_000);

  it('composes what a client goes on with, when it has trained once more, as before: a buffer need not be kept', async () => {
    const data = await prepareData(dataSchema.parse({ name: 'csv', path: join(dir, 'classes.csv') }));
    const dataset = openDataset(data);
    const wanted = scenarioSchema.parse({ stream: { name: 'split', tasks: 2 } });
    const scenario = makeScenario(wanted, dataset, { split: 'validation', seed: 1 });
    const examples = scenario.tasks.map((task) => task.examples.train.filter((_, i) => i % 5 === 0));
    const mine = new Set(examples.flatMap((own) => [...own]));
    for (const strategy of ['naive', 'cumulative', 'er', 'er-ace', 'der++', 'ewc', 'si', 'lwf']) {
      const config = continualStrategies().get(strategy)?.config.parse({}) ?? {};
      const job = {
        strategy,
        config,
        scenario: wanted,
        split: 'validation',
        shape: scenario.shape,
        epochs: 1,
        rounds: 3,
      };
      const stream = (fits: number[], task: number) =>
        clientStream({
          job: job as ContinualJob,
          scenario,
          dataset,
          data,
          examples,
          fits,
          task,
          batch: 8,
          seed: 1,
          client: 2,
        });
      const columns = ({ built, trained }: ClientStream) => {
        const { examples: all, labels, targets } = built.data.parts.train;
        const weights = targets.weight?.values;
        return [all, labels, weights].map((array) => array && view(array, array.dtype).slice(0, trained * 8));
      };
      const before = stream([2, 1], 1);
      const after = stream([2, 2], 1);
      expect(after.trained).toBeGreaterThan(before.trained);
      expect(columns(before)).toEqual(columns({ ...after, trained: before.trained }));
      const seen = [...view(after.built.data.parts.train.examples, 'int32')];
      expect(seen.every((example) => mine.has(example))).toBe(true);
      // A client that has not taken part in the first task has nothing of it to go back to.
      const only = stream([0, 1], 1);
      expect(only).toMatchObject({ task: 0, first: 0 });
      const own = new Set(examples[1]);
      expect([...view(only.built.data.parts.train.examples, 'int32')].every((example) => own.has(example))).toBe(true);
    }
  });

  it.each([
    ['fedavg-ewc', ['scheduler.continual.strategy.samples=2']],
    ['fedavg-replay', ['scheduler.continual.scenario.stream.classes=[[0, 1], [2, 3]]']],
  ])('trains as configs/continual/%s.yaml says', async (name, own) => {
    const path = `configs/continual/${name}.yaml`;
    expect(readFileSync(path, 'utf8')).toMatch(/^# .*\n# .*\nname: /);
    const small = ['data.limit=1000', 'scheduler.threads=1', 'scheduler.continual.rounds_per_task=1', `run.dir=${dir}`];
    const less = ['scheduler.continual.scenario.stream.tasks=2', 'scheduler.cohort=2', ...own];
    const { summary } = await complete(train(resolveConfig(path, [...small, ...less])));
    expect(summary?.accuracy_matrix).toHaveLength(2);
  });

  it.each([
    [{ name: 'a-gem' }, {}, /a-gem cannot be used by federated clients: .*compiled as one.*can: naive, .*ewc/],
    [{ name: 'ewcc' }, {}, /continual.strategy: there is no continual strategy "ewcc"; known: naive/],
    [{ name: 'gdumb' }, {}, /gdumb cannot .* begins its training anew/],
    [{ name: 'joint' }, {}, /joint cannot .* does not learn one task after another/],
    [{ name: 'ewc', lamda: 3 }, {}, /continual.strategy ewc: .*lamda/],
    [ewc, { name: 'fedper' }, /scheduler.continual: clients of fedper keep models, or parts of one, of their own/],
    [ewc, { name: 'moon' }, /clients of moon have a loss of their own/],
  ])('refuses what cannot be: %o %o', async (strategy, given, message) => {
    await expect(run('refused', strategy, given)).rejects.toThrow(message);
  });
});

const same = ({ weights_sha256, losses_sha256, accuracy_matrix }: RunSummary) => ({
  weights_sha256,
  losses_sha256,
  accuracy_matrix,
});
