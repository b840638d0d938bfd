import { availableParallelism } from 'node:os';
import {
  DataError,
  type Dataset,
  evaluationBatches,
  openDataset,
  type PreparedData,
  prepareData,
  type SplitName,
  tokenizerOf,
} from '../data/index.ts';
import type { EngineOptions } from '../engine/index.ts';
import {
  type Built,
  buildModel,
  type Model,
  type ModelConfig,
  type ResolvedModel,
  type TaskInfo,
} from '../modules/index.ts';
import { buildOptimizer, unusedGroups } from '../optim/index.ts';
import {
  compilePlan,
  localPlan,
  type ModelSummary,
  type ParamSummary,
  type Plan,
  PlanError,
  summariseModel,
  worldSize,
} from '../plan/index.ts';
import { trainingObjective } from '../worker/index.ts';
import { type ResolvedConfig, settingsWithoutEffect } from './config/index.ts';
import type { RunEvent } from './events.ts';
import { type LocalRounds, type Scheduler, type SchedulerPlan, schedulerNamed } from './scheduler.ts';
import { compressionNotes, idleCores, repeatedExamples, unusedRemat } from './warnings.ts';

/** A config with everything that is derived from it before workers are launched. */
export interface PreparedRun {
  readonly config: ResolvedConfig;
  readonly data: PreparedData;
  readonly dataset: Dataset;
  readonly model: Model;
  readonly plan: Plan;
  /** Set where data ranks take steps of their own; the plan is made for it. */
  readonly local: LocalRounds | null;
  /** What the scheduler has decided, where it decides about data and steps. */
  readonly scheduling: SchedulerPlan | null;
  /** All parameters of the model, experts included. */
  readonly params: readonly ParamSummary[];
  readonly unit: 'tokens' | 'examples';
  /** The engine of each worker, with its threads worked out. */
  readonly engine: EngineOptions;
  /** What the user should be told once. */
  readonly warnings: readonly string[];
}

/** Where to take things from that an earlier run has made. */
export interface PrepareSources {
  /** Run folder whose tokenizer is used. */
  readonly runDir?: string;
  /** The model of an earlier run, in place of the config's. */
  readonly model?: ResolvedModel;
}

/**
 * Reads the data, builds and measures the model, and plans who computes what. Starts no worker and writes nothing.
 * @throws DataError, ConfigError, ModuleError or PlanError stating what does not fit
 */
export async function* prepareRun(
  given: ResolvedConfig,
  sources: PrepareSources = {},
): AsyncGenerator<RunEvent, PreparedRun> {
  yield { type: 'preparing', what: 'data' };
  const source = await prepareData(given.data, sources.runDir === undefined ? {} : { runDir: sources.runDir });
  checkPrompt(given, source);
  const { name, ...own } = given.scheduler;
  const scheduler = schedulerNamed(name);
  const scheduling = await scheduled(scheduler, own, given, source);
  const config = scheduling ? { ...given, train: { ...given.train, steps: scheduling.steps } } : given;
  const data = scheduling?.data ?? source;
  const dataset = openDataset(data);
  const objective = scheduling?.objective ?? null;
  const changes = objective && trainingObjective(objective);
  yield { type: 'preparing', what: 'model' };
  const built = await build(config, sources.model ?? config.model, dataset.modelInfo ?? dataset.info);
  const model = changes?.model?.(built.model, dataset) ?? built.model;
  yield { type: 'preparing', what: 'plan' };
  const plain = buildOptimizer(config.optim, { totalSteps: config.train.steps });
  const optimizer = changes?.optimizer?.(plain) ?? plain;
  const summary = await summariseModel(model, dataset.info, config.batch.micro, optimizer.optimizer);
  const local = scheduler.local?.(own) ?? null;
  const plan = planned(config, summary, local, objective !== null);
  const params = summary.layers.flatMap((layer) => [
    ...layer.params,
    ...layer.expertCalls.flatMap((call) => call.experts.flat()),
  ]);
  const unused = unusedGroups(
    config.optim,
    params.map(({ path }) => path),
  );
  return {
    config,
    data,
    dataset,
    model,
    plan,
    local,
    scheduling,
    params,
    unit: dataset.tokensPerExample > 1 ? 'tokens' : 'examples',
    engine: { ...config.engine, threads: threadsOf(config) },
    warnings: [
      ...settingsWithoutEffect(config),
      ...idleCores(config),
      ...compressionNotes(config),
      ...built.warnings,
      ...plan.warnings,
      ...repeatedExamples(config, dataset),
      ...unusedRemat(config, model),
      ...unused.map((group) => `${group} has no effect: it matches no parameter that an earlier group does not`),
    ],
  };
}

/** Lets the scheduler look at the data. What it finds wrong is wrong with the config, at its section. */
async function scheduled(
  scheduler: Scheduler,
  own: unknown,
  config: ResolvedConfig,
  data: PreparedData,
): Promise<SchedulerPlan | null> {
  if (!scheduler.prepare) return null;
  try {
    return await scheduler.prepare({ config, data, dataset: openDataset(data) }, own);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw config.origin.fail([{ path: ['scheduler'], message: `scheduler: ${error.message}` }], error);
  }
}

/** A prompt that cannot be tokenised should not come to light when training has ended. */
function checkPrompt({ generate }: ResolvedConfig, data: PreparedData): void {
  if (generate.characters === 0) return;
  try {
    tokenizerOf(data)?.encode(generate.prompt);
  } catch (error) {
    if (error instanceof DataError) throw new DataError(`generate.prompt: ${error.message}`, { cause: error });
    throw error;
  }
}

/** Prepares without anyone watching: for planning, evaluation and generation. */
export async function prepareQuietly(config: ResolvedConfig, sources?: PrepareSources): Promise<PreparedRun> {
  const preparing = prepareRun(config, sources);
  for (;;) {
    const next = await preparing.next();
    if (next.done) return next.value;
  }
}

/**
 * Engine threads of each worker, unless the config says: one where bits must not depend on the mesh, since libraries
 * split products by threads and so round differently; else the machine's cores divided by the workers.
 */
export function threadsOf({
  engine,
  numerics,
  parallel,
}: Pick<ResolvedConfig, 'engine' | 'numerics' | 'parallel'>): number {
  if (engine.threads > 0) return engine.threads;
  return numerics === 'exact' ? 1 : Math.max(1, Math.floor(availableParallelism() / worldSize(parallel)));
}

/** Microbatches of an evaluation of a whole split. */
export function evaluationSize({ dataset, config }: Pick<PreparedRun, 'dataset' | 'config'>, split: SplitName): number {
  return evaluationBatches({ examples: dataset.split(split).examples, micro: config.batch.micro }).length;
}

/** Checks that there is something to evaluate on, before anything is started. @throws ConfigError */
export function checkEvaluation({ dataset, config }: PreparedRun): void {
  const { eval_split: split } = config.train;
  if (dataset.split(split).examples > 0) return;
  throw config.origin.fail([
    {
      path: ['train', 'eval_split'],
      message:
        `train.eval_split is ${split}, but the dataset has no ${split} part: ` +
        `set data.${split} above 0, or train.eval_split to ${split === 'test' ? 'validation' : 'test'}`,
    },
  ]);
}

/** Reference losses on exactly the examples that an evaluation of the whole validation split uses. */
export function baselinesOf({
  dataset,
  config,
}: Pick<PreparedRun, 'dataset' | 'config'>): Readonly<Record<string, number>> {
  if (config.train.eval_split !== 'validation') return {};
  const batches = evaluationBatches({ examples: dataset.split('validation').examples, micro: config.batch.micro });
  const examples = Int32Array.from(batches.flatMap((batch) => [...batch]));
  return examples.length === 0 ? {} : dataset.baselines(examples);
}

/** A plan that cannot be made is something wrong with the config, at the key that the error names. */
function planned(config: ResolvedConfig, summary: ModelSummary, local: LocalRounds | null, changes: boolean): Plan {
  const { parallel, batch, comm, origin } = config;
  // On NATS a state of which there are copies survives the loss of a worker; compressed sums go to every rank anyway.
  // A scheduler that changes optimizer state between steps must find all of it wherever the parameter is.
  const shard = comm.control === 'local' && comm.compression.gradients === 'none' && !changes;
  try {
    const plan = compilePlan({ summary, parallel, batch, zero: shard ? 1 : 0, baseDir: origin.directory });
    return local ? localPlan(plan, local.every) : plan;
  } catch (error) {
    if (!(error instanceof PlanError)) throw error;
    throw origin.fail([{ path: error.key?.split('.') ?? ['parallel'], message: error.message }], error);
  }
}

/** A model that refuses its arguments or its task is something wrong with the config, at its `model` section. */
async function build(config: ResolvedConfig, model: ModelConfig | ResolvedModel, info: TaskInfo): Promise<Built> {
  try {
    return await buildModel(model, info);
  } catch (error) {
    if (!(error instanceof Error) || !['Error', 'RangeError', 'TypeError'].includes(error.name)) throw error;
    throw config.origin.fail([{ path: ['model'], message: error.message }], error);
  }
}
