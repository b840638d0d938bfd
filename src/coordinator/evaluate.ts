import { DataError, type SplitName } from '../data/index.ts';
import { optimSchema } from '../optim/index.ts';
import { workerEntryUrl } from '../worker/index.ts';
import { checkMachine, resolveConfig } from './config/index.ts';
import { jobsOf } from './execute.ts';
import { WorkerPool } from './launch/index.ts';
import { finishMetrics, type Metrics } from './metrics.ts';
import { baselinesOf, evaluationSize, prepareQuietly } from './prepare.ts';
import { CheckpointReader, findRunFolder, newestCheckpoint, readModelFile } from './run/index.ts';

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
  readonly microbatches: number;
  readonly loss: number;
  readonly metrics: Metrics;
  /** Reference losses on the same examples; empty where there are none for this split. */
  readonly baselines: Readonly<Record<string, number>>;
  readonly warnings: readonly string[];
}

/**
 * Evaluates a run's checkpoint on a whole split, on worker threads as in training.
 * @throws ConfigError if this machine lacks the device, CheckpointError if there is no usable checkpoint, RunFailure if
 * a worker fails
 */
export async function evaluateRun(run: string, options: EvaluateRunOptions = {}): Promise<RunEvaluation> {
  const folder = await findRunFolder(run);
  const stored = resolveConfig(folder.config, options.overrides);
  checkMachine(stored);
  const split = options.split ?? stored.train.eval_split;
  const config = {
    ...stored,
    // Only parameters and module state are needed, from whatever strategy, optimizer and mesh.
    scheduler: { name: 'sync' },
    optim: optimSchema.parse({ name: 'sgd', momentum: 0 }),
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
  const microbatches = evaluationSize(prepared, split);
  if (microbatches === 0)
    throw new DataError(`the dataset of ${folder.id} has no ${split} part to evaluate on; use another --split`);
  const jobs = jobsOf(prepared, { runId: folder.id, model, checkpoint: usable.path });
  const { pool } = await WorkerPool.start(
    {
      jobs,
      entry: workerEntryUrl(),
      deadlineMs: config.comm.deadline_s * 1000,
      names: (_, __, index) => `instruction ${index}`,
    },
    options.signal,
  );
  try {
    const metrics = finishMetrics(await pool.evaluate(split, microbatches), microbatches);
    await pool.stop();
    return {
      runId: folder.id,
      step: usable.index.step,
      split,
      microbatches,
      loss: metrics.loss as number,
      metrics,
      baselines: split === 'validation' ? baselinesOf(prepared) : {},
      warnings: [...usable.warnings],
    };
  } finally {
    await pool.terminate();
  }
}
