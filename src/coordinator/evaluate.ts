import { DataError, type SplitName } from '../data/index.ts';
import { optimSchema } from '../optim/index.ts';
import { largestPrediction } from '../plan/index.ts';
import { workerEntryUrl } from '../worker/index.ts';
import { checkMachine, resolveConfig } from './config/index.ts';
import { predictRows, readSchedulerTensor, WorkerPool } from './launch/index.ts';
import { jobsOf } from './launch-threads.ts';
import { finishMetrics, type Metrics } from './metrics.ts';
import { baselinesOf, evaluationSize, type PreparedRun, prepareQuietly } from './prepare.ts';
import {
  CheckpointReader,
  findRunFolder,
  newestCheckpoint,
  readModelFile,
  type UsableCheckpoint,
} from './run/index.ts';
import { schedulerNamed } from './scheduler.ts';
import type { MeasureSession } from './session.ts';

/** Options of an evaluation of a run. */
export interface EvaluateRunOptions {
  /** Part of the dataset. Default: the run's `train.eval_split`. */
  readonly split?: SplitName;
  /** Completed steps of the checkpoint to use; the newest whole one if left out. */
  readonly step?: number;
  /** `a.b=c` overrides of the run's config: another mesh or engine, say. */
  readonly overrides?: readonly string[];
  readonly signal?: AbortSignal;
}

/** Result of an evaluation of a run. */
export interface RunEvaluation {
  readonly runId: string;
  /** Completed steps of the checkpoint. */
  readonly step: number;
  readonly split: SplitName;
  /** Null where the run's scheduler measures its models by itself (tasks of a sequence). */
  readonly microbatches: number | null;
  /** Null where none is measured. */
  readonly loss: number | null;
  readonly metrics: Metrics;
  /** Reference losses on the same examples; empty where there are none for this split. */
  readonly baselines: Readonly<Record<string, number>>;
  readonly warnings: readonly string[];
}

/**
 * Evaluates a run's checkpoint on a whole split, or as the run's scheduler does it (`Scheduler.measure`), on worker threads
 * as in training.
 * @throws ConfigError if this machine lacks the device, or the split is none that the scheduler measures on; CheckpointError
 * if there is no usable checkpoint, RunFailure if a worker fails
 */
export async function evaluateRun(run: string, options: EvaluateRunOptions = {}): Promise<RunEvaluation> {
  const folder = await findRunFolder(run);
  const stored = resolveConfig(folder.config, options.overrides);
  checkMachine(stored);
  const split = options.split ?? stored.train.eval_split;
  const { name, ...own } = stored.scheduler;
  const scheduler = schedulerNamed(name);
  const measures = scheduler.measure !== undefined;
  if (measures && split === 'train')
    throw new DataError(
      `${folder.id} is a ${name} run, which is evaluated on its tasks' validation or test examples, not on train; use another --split`,
    );
  const config = {
    ...stored,
    // Only parameters and module state are needed, from whatever strategy, optimizer and mesh; and slots, where a scheduler
    // shows a model by what its strategy keeps of each parameter (masks).
    ...(measures ? {} : { scheduler: { name: 'sync' }, optim: optimSchema.parse({ name: 'sgd', momentum: 0 }) }),
    comm: { ...stored.comm, compression: { ...stored.comm.compression, gradients: 'none' as const } },
    train: { ...stored.train, eval_split: split === 'train' ? stored.train.eval_split : split },
  };
  const usable = await newestCheckpoint(folder.checkpoints, options.step);
  const model = await readModelFile(folder);
  const prepared = await prepareQuietly(config, { runDir: folder.path, model });
  const reader = await CheckpointReader.open(usable.path, usable.index);
  try {
    reader.checkModel(prepared.params);
  } finally {
    await reader.close();
  }
  const microbatches = measures ? null : evaluationSize(prepared, split);
  if (microbatches === 0)
    throw new DataError(`the dataset of ${folder.id} has no ${split} part to evaluate on; use another --split`);
  const { pool } = await WorkerPool.start(
    {
      jobs: jobsOf(prepared, { runId: folder.id, model, checkpoint: usable.path }),
      entry: (measures ? scheduler.entry?.() : undefined) ?? workerEntryUrl(),
      deadlineMs: config.comm.deadline_s * 1000,
      names: (_, __, index) => `instruction ${index}`,
    },
    options.signal,
  );
  try {
    const { loss, metrics } = scheduler.measure
      ? await scheduler.measure(measureSession(prepared, pool, usable, options.signal), own)
      : await wholeSplit(pool, split, microbatches as number);
    await pool.stop();
    return {
      runId: folder.id,
      step: usable.index.step,
      split,
      microbatches,
      loss,
      metrics,
      baselines: split === 'validation' && !measures ? baselinesOf(prepared) : {},
      warnings: [...usable.warnings],
    };
  } finally {
    await pool.terminate();
  }
}

async function wholeSplit(pool: WorkerPool, split: SplitName, microbatches: number) {
  const metrics = finishMetrics(await pool.evaluate(split, microbatches), microbatches);
  return { loss: metrics.loss as number, metrics };
}

/** What a scheduler measures a checkpoint by: workers that hold it. */
function measureSession(
  { config, model, plan, scheduling }: PreparedRun,
  pool: WorkerPool,
  from: UsableCheckpoint,
  signal = new AbortController().signal,
): MeasureSession {
  const largest = largestPrediction(plan.summary, config.batch.micro);
  return {
    config,
    model,
    signal,
    position: from.index.step,
    plan: scheduling?.plan ?? null,
    predict: (options) => predictRows(pool, options, config.batch.micro, largest),
    transition: (name, args) => pool.transition(name, args),
    restored: (name) => readSchedulerTensor(from, name),
  };
}
