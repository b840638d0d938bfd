import type { ResolvedModel } from '../modules/index.ts';
import { formatInstruction, type Program, worldSize } from '../plan/index.ts';
import { type WorkerJob, workerEntryUrl } from '../worker/index.ts';
import type { ResolvedConfig } from './config/index.ts';
import type { Execution, Launched } from './execution.ts';
import { threadsAtOnce, WaitingThreads, WorkerPool } from './launch/index.ts';
import type { PreparedRun } from './prepare.ts';
import { schedulerNamed } from './scheduler.ts';

/** Builds each rank's job. */
export function jobsOf(
  prepared: PreparedRun,
  options: { readonly runId: string; readonly model: ResolvedModel; readonly checkpoint: string | null },
): WorkerJob[] {
  const { config, plan, data, engine } = prepared;
  return plan.programs.map((train, rank) => ({
    runId: options.runId,
    rank,
    seed: config.seed,
    model: options.model,
    optim: config.optim,
    ...(prepared.scheduling?.objective ? { objective: prepared.scheduling.objective } : {}),
    ...(prepared.local ? { outerOptim: prepared.local.optim } : {}),
    totalSteps: config.train.steps,
    data,
    engine,
    batch: config.batch,
    numerics: config.numerics,
    remat: config.remat,
    train,
    evaluate: plan.evaluate[rank] as Program,
    compression: config.comm.compression,
    deadlineMs: config.comm.deadline_s * 1000,
    checkpoint: options.checkpoint,
    trace: config.run.trace,
  }));
}

/** The module that threads of a run's ranks run. */
function entryOf({ scheduler }: ResolvedConfig): URL {
  return schedulerNamed(scheduler.name).entry?.() ?? workerEntryUrl();
}

/**
 * Starts the threads of a run that has not been prepared yet, so that both take their time together. Null where the scheduler wants
 * none, or no core would be left for the preparation. As many load at a time as leave it one.
 * @param begun threads that are there already; they become the run's if they can, and are ended otherwise
 */
export function startThreadsAhead(config: ResolvedConfig, begun: WaitingThreads | null = null): WaitingThreads | null {
  const atOnce = threadsAtOnce();
  const wanted = atOnce > 0 && !schedulerNamed(config.scheduler.name).alone;
  const [entry, world] = [entryOf(config), worldSize(config.parallel)];
  if (wanted && begun?.grow(entry, world, atOnce)) return begun;
  void begun?.end();
  return wanted ? new WaitingThreads(entry, world, atOnce) : null;
}

/** Starts one thread of this process for each rank. */
export async function launchThreads(execution: Execution, signal: AbortSignal): Promise<Launched> {
  const { prepared, folder, model, from } = execution;
  const jobs = jobsOf(prepared, { runId: folder.id, model, checkpoint: from?.path ?? null });
  const deadlineMs = prepared.config.comm.deadline_s * 1000;
  const names = instructionNames(prepared);
  const entry = entryOf(prepared.config);
  const { pool, ready } = await WorkerPool.start(
    { jobs, entry, deadlineMs, names, waiting: execution.waiting ?? undefined },
    signal,
  );
  const step = from?.index.step ?? 0;
  return { workers: pool, ready, step, mesh: () => prepared.plan.mesh, recoveries: () => 0 };
}

function instructionNames({ plan }: PreparedRun) {
  return (rank: number, mode: number, index: number): string => {
    const instruction = (mode === 1 ? plan.evaluate : plan.programs)[rank]?.instructions[index];
    return instruction ? formatInstruction(instruction) : `instruction ${index}`;
  };
}
