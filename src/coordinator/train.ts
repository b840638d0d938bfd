import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { saveTokenizer, TOKENIZER_FILE, tokenizerOf } from '../data/index.ts';
import { modelParams, modelState, prepareModel, type ResolvedModel } from '../modules/index.ts';
import { tensorName } from '../worker/index.ts';
import {
  type Config,
  checkMachine,
  formatConfig,
  type Override,
  type ResolvedConfig,
  resolveConfig,
} from './config/index.ts';
import type { RunEvent } from './events.ts';
import { execute } from './execute.ts';
import type { Execution } from './execution.ts';
import { heldNames, heldOptions } from './held-names.ts';
import type { WaitingThreads } from './launch/index.ts';
import { startThreadsAhead } from './launch-threads.ts';
import { checkEvaluation, type PreparedRun, prepareRun } from './prepare.ts';
import { writeFileAtomically } from './run/atomic.ts';
import {
  CheckpointReader,
  createRunFolder,
  findRunFolder,
  lockRun,
  newestCheckpoint,
  RunFolderError,
  readModelFile,
  writeModelFile,
} from './run/index.ts';
import { schedulerNamed } from './scheduler.ts';

/** Options of a run. */
export interface RunOptions {
  /** `a.b=c` overrides of the config. */
  readonly overrides?: readonly string[];
  /**
   * Threads that were started before the config was read: they become the run's if they can. Whoever gives them ends them, see
   * `startFirstThread`.
   */
  readonly begun?: WaitingThreads | null;
  /** Raise it to stop: the step is finished, a checkpoint written, everything ended. */
  readonly signal?: AbortSignal;
}

/** What `train` takes: a YAML file, an object with the same keys, or a config that is resolved already. */
export type ConfigInput = string | Readonly<Record<string, unknown>> | ResolvedConfig;

/** Runs what has been prepared, in its folder: in this process, or on agents. */
export type Runner = (execution: Execution) => AsyncIterable<RunEvent>;

/**
 * Trains from a config. Yields what happens; the last event is `finished` (completed or interrupted) or `failed`, after
 * which the failure is thrown. Ending the iteration early ends the run at once, without a checkpoint.
 * @throws ConfigError, DataError, ModuleError or PlanError before anything is started; RunFailure when a worker fails
 */
export async function* train(source: ConfigInput, options: RunOptions = {}): AsyncGenerator<RunEvent, void> {
  const began = performance.now();
  const config = resolveConfig(source, options.overrides);
  if (config.comm.control !== 'local')
    throw config.origin.fail([
      {
        path: ['comm', 'control'],
        message: `comm.control is ${config.comm.control}: workers on other machines need trainCluster (plexus train --nats URL)`,
      },
    ]);
  checkMachine(config);
  const waiting = startThreadsAhead(config, options.begun);
  try {
    const run: Runner = (execution) => execute({ ...execution, waiting });
    yield* trainNew(config, { began, signal: options.signal ?? null, run });
  } finally {
    await waiting?.end();
  }
}

/** Trains in a new run folder, wherever the workers are. */
export async function* trainNew(
  config: ResolvedConfig,
  { began, signal, run }: { readonly began: number; readonly signal: AbortSignal | null; readonly run: Runner },
): AsyncGenerator<RunEvent, void> {
  const prepared = yield* prepareRun(config);
  checkEvaluation(prepared);
  const folder = await createRunFolder(config.run.dir, config.name, config.run.id).catch((error: unknown) => {
    if (!(error instanceof RunFolderError)) throw error;
    throw config.origin.fail([{ path: ['run', error.key], message: error.message }], error);
  });
  const unlock = await lockRun(folder.path);
  let worthKeeping = false;
  try {
    const model = await prepareModel(config.model, { baseDir: config.origin.directory, outDir: folder.path });
    await writeModelFile(folder, model);
    await writeFileAtomically(folder.config, formatConfig(config));
    const tokenizer = tokenizerOf(prepared.data);
    if (tokenizer) await saveTokenizer(tokenizer, join(folder.path, TOKENIZER_FILE));
    for await (const event of run({ prepared, folder, model, began, signal, from: null })) {
      worthKeeping ||= event.type === 'step' || event.type === 'checkpointed';
      yield event;
    }
  } catch (error) {
    // Whoever leads the job now goes on in this folder.
    worthKeeping ||= (error as Error).name === 'LeaderLost';
    throw error;
  } finally {
    await unlock();
    // A run that never made a step leaves nothing worth keeping.
    if (!worthKeeping) await rm(folder.path, { recursive: true, force: true });
  }
}

/**
 * Continues a run from its newest whole checkpoint, in its folder. `change` is a list of `a.b=c` overrides of the run's
 * own config, or a whole config to take its place; the mesh, the number of steps and the engine may differ.
 * @throws CheckpointError if there is no usable checkpoint, or it is of another model
 */
export async function* resume(
  run: string,
  change: readonly (string | Override)[] | ConfigInput = [],
  options: RunOptions & { readonly step?: number } = {},
): AsyncGenerator<RunEvent, void> {
  yield* trainOn(run, change, { ...options, run: execute, control: 'local' });
}

/** Continues a run wherever its workers are: `resume` with something else than threads of this process. */
export async function* trainOn(
  run: string,
  change: readonly (string | Override)[] | ConfigInput,
  options: RunOptions & { readonly step?: number; readonly run: Runner; readonly control: Config['comm']['control'] },
): AsyncGenerator<RunEvent, void> {
  const began = performance.now();
  const given = isOverrides(change) ? null : resolveConfig(change, options.overrides);
  const folder = await findRunFolder(run, given?.run.dir);
  const stored = resolveConfig(folder.config);
  const config = withControl(
    given ?? changedConfig(stored, [...(change as readonly Override[]), ...(options.overrides ?? [])]),
    options.control,
  );
  if (options.control === 'local') checkMachine(config);
  const waiting = options.control === 'local' ? startThreadsAhead(config, options.begun) : null;
  let unlock: (() => Promise<void>) | null = null;
  try {
    unlock = await lockRun(folder.path);
    const usable = await newestCheckpoint(folder.checkpoints, options.step);
    // Where the scheduler decides how many steps there are, that is known only when it has seen the data.
    const decided = schedulerNamed(config.scheduler.name).prepare !== undefined;
    const left = decided ? [] : nothingLeft(config, usable.index.step);
    for (const message of [...usable.warnings, ...differences(stored, config), ...left])
      yield { type: 'warning', message };
    const sameModel = JSON.stringify(stored.model) === JSON.stringify(config.model);
    const model: ResolvedModel = sameModel
      ? await readModelFile(folder)
      : await prepareModel(config.model, { baseDir: config.origin.directory, outDir: folder.path });
    const prepared = yield* prepareRun(config, { runDir: folder.path, model });
    checkEvaluation(prepared);
    if (decided)
      for (const message of nothingLeft(prepared.config, usable.index.step)) yield { type: 'warning', message };
    const reader = await CheckpointReader.open(usable.path, usable.index);
    try {
      reader.checkModel(prepared.params);
      // Strategies without ranks keep other state, and read it themselves: clients have optimizers of their own.
      if (!schedulerNamed(config.scheduler.name).alone) reader.checkState(carriedState(prepared));
    } finally {
      await reader.close();
    }
    for await (const event of options.run({
      prepared,
      folder,
      model,
      began,
      signal: options.signal ?? null,
      from: usable,
      waiting,
    })) {
      // Only now is it sure that the run can go on with them: a change that does not fit must not spoil the folder.
      if (event.type === 'started') {
        await writeModelFile(folder, model);
        await writeFileAtomically(folder.config, formatConfig(config));
      }
      yield event;
    }
  } finally {
    await Promise.all([waiting?.end(), unlock?.()]);
  }
}

/** Runs to the end and returns the last event. @throws what `train` or `resume` throw */
export async function complete(
  events: AsyncIterable<RunEvent>,
  onEvent?: (event: RunEvent) => void,
): Promise<Extract<RunEvent, { type: 'finished' }>> {
  let finished: Extract<RunEvent, { type: 'finished' }> | null = null;
  for await (const event of events) {
    onEvent?.(event);
    if (event.type === 'finished') finished = event;
  }
  if (!finished) throw new Error('the run ended without saying how');
  return finished;
}

/** The config of a run whose workers are threads of this process, or agents. */
export function withControl(config: ResolvedConfig, control: Config['comm']['control']): ResolvedConfig {
  return { ...config, comm: { ...config.comm, control } };
}

/** Tensors of a checkpoint besides the parameters that going on needs. */
function carriedState(prepared: PreparedRun): string[] {
  const { config, model } = prepared;
  const params = modelParams(model).map(({ path, spec }) => ({ path, shape: spec.shape, decay: spec.decay }));
  const state = modelState(model).map(({ path, spec }) => ({ path, shape: spec.shape }));
  const options = heldOptions(prepared);
  const replicas = Array.from({ length: config.parallel.data }, (_, data) => heldNames(params, state, data, options));
  const parameters = new Set(params.map(({ path }) => tensorName.param(path)));
  const names = replicas.flat().flatMap(({ name, optional }) => (optional || parameters.has(name) ? [] : [name]));
  return [...new Set(names)];
}

/** A stored config names every key; only what is changed now counts as given (for settings without effect). */
function changedConfig(stored: ResolvedConfig, overrides: readonly (string | Override)[]): ResolvedConfig {
  return resolveConfig({ ...stored, origin: { ...stored.origin, given: new Set() } }, overrides);
}

function isOverrides(change: readonly (string | Override)[] | ConfigInput): change is readonly (string | Override)[] {
  return Array.isArray(change);
}

/** A run that has done all its steps is only evaluated once more. @throws ConfigError if it has done even more */
function nothingLeft({ train, origin }: ResolvedConfig, done: number): string[] {
  const further = `to go on, set train.steps above ${done}`;
  if (done > train.steps)
    throw origin.fail([
      {
        path: ['train', 'steps'],
        message: `the run has done ${done} steps, more than train.steps ${train.steps}: ${further}`,
      },
    ]);
  return done < train.steps
    ? []
    : [`the run has done its ${done} steps already and is only evaluated again; ${further}`];
}

/** Changes after which a resumed run is not what an undisturbed one would have been. */
function differences(before: ResolvedConfig, after: ResolvedConfig): string[] {
  const keys: readonly (keyof Config)[] = ['seed', 'data', 'batch', 'optim', 'numerics'];
  return keys
    .filter((key) => JSON.stringify(before[key]) !== JSON.stringify(after[key]))
    .map(
      (key) =>
        `'${key}' differs from what the run was started with: the result will not be that of an uninterrupted run`,
    );
}
