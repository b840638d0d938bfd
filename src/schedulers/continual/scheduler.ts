import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import * as z from 'zod';
import type { PrepareGiven, Scheduler, SchedulerPlan } from '../../coordinator/index.ts';
import { type Dataset, naturalKeys } from '../../data/index.ts';
import { buildModel, type ModelConfig, namedParams, type TaskInfo } from '../../modules/index.ts';
import type { BuiltStream } from './built-stream.ts';
import { composeTasks } from './compose.ts';
import { measureTasks } from './evaluate-tasks.ts';
import { CONTINUAL, type ContinualObjective } from './near-data.ts';
import { readReference } from './reference.ts';
import { runTasks } from './run-tasks.ts';
import { makeScenario, type Scenario } from './scenario.ts';
import { scenarioSchema } from './schema.ts';
import {
  anyStrategySchema,
  type ContinualStrategy,
  type Course,
  continualStrategies,
  resolvedStrategy,
  type StrategySection,
} from './strategy.ts';
import { StreamBuilder } from './stream-builder.ts';
import { stretchesOf } from './stretches.ts';

/** Keys of the `scheduler` section, the strategy's own not yet looked at. */
export interface ContinualConfig {
  readonly scenario: z.output<typeof scenarioSchema>;
  readonly epochs: number;
  readonly drift: boolean;
  readonly reference: readonly number[] | string | null;
  readonly strategy: StrategySection;
}

/** What `prepare` has made for `run`. */
export interface ContinualPlan {
  readonly dataset: Dataset;
  readonly scenario: Scenario;
  readonly stream: BuiltStream;
  readonly strategy: ContinualStrategy;
  readonly strategyConfig: Readonly<Record<string, unknown>>;
  readonly course: Course;
  /** Accuracy on each task of a model that learns tasks together, where it is known. */
  readonly reference: readonly number[] | null;
  /** Whether it is looked at how far modules move. */
  readonly drift: boolean;
}

const continualSchema = z.strictObject({
  scenario: scenarioSchema,
  epochs: z.int().min(1).default(1).describe("passes over each task's examples; train.steps follows from it"),
  drift: z
    .boolean()
    .default(true)
    .describe(
      'whether drift.json says how much each module changes between and within tasks; costs a copy of the parameters',
    ),
  reference: z
    .union([z.array(z.number().min(0).max(1)).min(1), z.string().min(1)])
    .nullable()
    .default(null)
    .describe(
      'accuracy on each task of a model that learns tasks together, or the run folder of a joint or cumulative run; gives intransigence',
    ),
  strategy: anyStrategySchema().prefault({ name: 'naive' } as never),
});

/** Width of what goes into the last layer of a model with one matrix there. */
export async function featuresOf(model: ModelConfig, info: TaskInfo): Promise<number | null> {
  const last = (await buildModel(model, info)).model.layers.at(-1);
  const matrices = last ? namedParams(last.module, '').filter(({ spec }) => spec.shape.length === 2) : [];
  return matrices.length === 1 ? (matrices[0]?.spec.shape[0] ?? null) : null;
}

/** Strategies that can do something that not all can. */
function able(what: 'languageModels' | 'taskFree'): string {
  return [...continualStrategies()].flatMap(([name, strategy]) => (strategy[what] ? [name] : [])).join(', ');
}

async function prepare({ config, data, dataset }: PrepareGiven, own: ContinualConfig): Promise<SchedulerPlan> {
  const { name, ...ownConfig } = own.strategy;
  const { strategy, config: strategyConfig } = resolvedStrategy(own.strategy);
  const split = config.train.eval_split;
  const { stream: how } = own.scenario;
  const keys =
    how.name === 'natural'
      ? {
          train: await naturalKeys(config.data, data, how.key),
          evaluation: await naturalKeys(config.data, data, how.key, split),
        }
      : null;
  const cut = makeScenario(own.scenario, dataset, { split, seed: config.seed, keys });
  if (cut.shape.tokens !== null && !strategy.languageModels)
    throw new RangeError(
      `strategy ${name} needs examples that have a class, but ${dataset.name} is text; for text there are ${able('languageModels')}`,
    );
  if (cut.shape.gradual > 0 && !strategy.taskFree)
    throw new RangeError(
      `strategy ${name} must know when tasks change, but scenario.gradual is ${cut.shape.gradual}; set it to 0, or use one of ${able('taskFree')}`,
    );
  const features = strategy.features
    ? await featuresOf(config.model, { ...dataset.info, classes: cut.shape.outputs })
    : null;
  const scenario: Scenario = { ...cut, shape: { ...cut.shape, features } };
  const targets = strategy.targets?.(strategyConfig, scenario.shape) ?? [];
  const { global, micro } = config.batch;
  const rows = strategy.trained ? Math.ceil((strategy.trained(strategyConfig, global) * micro) / global) : micro;
  const builder = new StreamBuilder(scenario, dataset, global, targets, { micro, rows });
  const given = { scenario, dataset, builder, epochs: own.epochs, global, seed: config.seed };
  if (strategy.compose) strategy.compose(given, strategyConfig);
  else composeTasks(given, { fresh: global });
  const stream = builder.build(data, dataset, split);
  const course = { ends: stream.ends, pauses: stream.pauses, epochs: own.epochs };
  const objective: ContinualObjective = {
    strategy: name,
    config: ownConfig,
    shape: scenario.shape,
    phases: stream.phases,
    course,
    rows: rows < micro ? rows : null,
  };
  return {
    data: stream.data,
    steps: stream.steps,
    objective: { name: CONTINUAL, config: objective },
    stretches: stretchesOf(stream.ends, stream.phases),
    plan: {
      dataset,
      scenario,
      stream,
      strategy,
      strategyConfig,
      course,
      reference: await readReference(own.reference, scenario.tasks.length),
      drift: own.drift,
    } satisfies ContinualPlan,
  };
}

/**
 * `scheduler: {name: continual}`: a sequence of tasks, each learnt without going back to the data of those before, and what is
 * left of every one of them after each. `train.steps` follows from the tasks.
 */
export const continual: Scheduler<ContinualConfig> = {
  name: 'continual',
  config: continualSchema as unknown as Scheduler<ContinualConfig>['config'],
  prepare,
  entry: nearDataEntry,
  run: (session) => runTasks(session, session.plan as ContinualPlan),
  measure: (session) => measureTasks(session, session.plan as ContinualPlan),
};

/** Node 20 cannot run TypeScript, so from the sources the built file is used; Deno runs the sources as they are. */
function nearDataEntry(): URL {
  const here = import.meta.url;
  if (!here.endsWith('.ts')) return new URL('../near-data-thread.js', here);
  if ('Deno' in globalThis) return new URL('../near-data-thread.ts', here);
  const built = new URL('../../../dist/schedulers/near-data-thread.js', here);
  if (!existsSync(built)) throw new Error(`${fileURLToPath(built)} is missing: run \`npm run build\` first`);
  return built;
}
