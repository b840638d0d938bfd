import * as z from 'zod';
import type { PrepareGiven, SchedulerPlan } from '../../../coordinator/index.ts';
import { type Dataset, type PreparedData, type PreparedStream, share } from '../../../data/index.ts';
import { makeScenario, type Scenario } from '../../continual/scenario.ts';
import { featuresOf } from '../../continual/scheduler.ts';
import {
  type ContinualStrategy,
  continualNames,
  continualStrategies,
  continualStrategy,
} from '../../continual/strategy.ts';
import { StreamBuilder } from '../../continual/stream-builder.ts';
import type { ContinualJob } from './job.ts';
import { CLIENT_TASKS } from './objective.ts';
import { refusedStrategy } from './refusals.ts';
import type { ContinualSection } from './schema.ts';

/** What a federated run with tasks has prepared. */
export interface TasksPlan {
  readonly job: ContinualJob;
  readonly scenario: Scenario;
  /** First position of each task's examples in the split that is evaluated on, and the end. */
  readonly evaluation: readonly number[];
  /** The dataset as it is, without tasks. */
  readonly source: Dataset;
}

/** Makes a sequence of tasks of a dataset, for clients to train on. @throws RangeError if it cannot be done, saying why */
export async function prepareTasks(
  { config, data, dataset }: PrepareGiven,
  { scenario: wanted, strategy: given, rounds_per_task: rounds }: ContinualSection,
  { local_epochs: epochs, local_batch: batch }: { readonly local_epochs: number; readonly local_batch: number | null },
): Promise<SchedulerPlan> {
  if (batch === null)
    throw new RangeError('scheduler.local_batch must be a number where clients learn tasks: streams are cut by it');
  const { name, ...keys } = given;
  const strategy = known(name);
  const parsed = z.strictObject(strategy.config.shape).safeParse(keys);
  if (!parsed.success)
    throw new RangeError(
      `continual.strategy ${name}: ${parsed.error.issues.map(({ path, message }) => [...path, message].join(': ')).join('; ')}`,
    );
  const split = config.train.eval_split;
  const cut = makeScenario(wanted, dataset, { split, seed: config.seed });
  if (cut.shape.gradual > 0)
    throw new RangeError('continual.scenario.gradual must be 0: clients are told when tasks change');
  const info = { ...dataset.info, classes: cut.shape.outputs };
  const shape = { ...cut.shape, features: strategy.features ? await featuresOf(config.model, info) : null };
  const scenario: Scenario = { ...cut, shape };
  const job: ContinualJob = { scenario: wanted, split, strategy: name, config: parsed.data, shape, epochs, rounds };
  const refused = refusal(job, { scenario, dataset, data, batch });
  if (refused !== null)
    throw new RangeError(`continual.strategy ${name} cannot be used by federated clients: ${refused}`);
  const { stream, evaluation } = clientsStream(data, dataset, scenario, job);
  return {
    data: stream,
    steps: scenario.tasks.length * rounds,
    objective: { name: CLIENT_TASKS, config: job },
    plan: { job, scenario, evaluation, source: dataset } satisfies TasksPlan,
  };
}

/** @throws RangeError naming the strategies that there are */
function known(name: string): ContinualStrategy {
  if (!continualStrategies().has(name) && continualNames().includes(name))
    throw new RangeError(
      `continual.strategy ${name} is made of another strategy, and changes the model between that one's steps, which only the server can do here; use the other one by itself`,
    );
  try {
    return continualStrategy(name);
  } catch (error) {
    throw new RangeError(`continual.strategy: ${(error as Error).message}`, { cause: error });
  }
}

function refusal(job: ContinualJob, tried: Parameters<typeof refusedStrategy>[1]): string | null {
  try {
    return refusedStrategy(job, tried);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    const batch = error.message.includes('batch.global') ? ' (batch.global is scheduler.local_batch here)' : '';
    throw new RangeError(`continual.strategy ${job.strategy}: ${error.message}${batch}`, { cause: error });
  }
}

/**
 * A stream whose training part is the dataset's as it is (what clients make of theirs is a stream for each), and whose other
 * parts have the tasks' examples, one task after another.
 */
function clientsStream(data: PreparedData, dataset: Dataset, scenario: Scenario, job: ContinualJob) {
  const targets = continualStrategy(job.strategy).targets?.(job.config, job.shape) ?? [];
  const builder = new StreamBuilder(scenario, dataset, 1, targets);
  for (const { index, examples } of scenario.tasks) {
    builder.step([{ example: examples.train[0] as number, task: index, weight: 1 }]);
    builder.endTask();
  }
  const built = builder.build(data, dataset, job.split);
  const { labels, examples } = dataset.split('train');
  const stream: PreparedStream = {
    ...built.data,
    parts: {
      ...built.data.parts,
      train: {
        from: 'train',
        examples: share(
          'int32',
          Int32Array.from({ length: examples }, (_, i) => i),
        ),
        labels: share('int32', labels as ArrayLike<number>),
        views: null,
        targets: {},
      },
    },
  };
  return { stream, evaluation: built.evaluation };
}
