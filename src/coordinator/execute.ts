import { availableParallelism } from 'node:os';
import type { ResolvedModel } from '../modules/index.ts';
import {
  formatInstruction,
  gradientExchangeBytes,
  largestPrediction,
  type MeshShape,
  type Program,
  stageFlops,
  sumFlops,
  worldSize,
} from '../plan/index.ts';
import { type WorkerJob, workerEntryUrl } from '../worker/index.ts';
import type { ResolvedConfig } from './config/index.ts';
import type { RunEvent } from './events.ts';
import { RunFailure } from './failure.ts';
import { sampleText } from './generate/index.ts';
import { drive, type ReadyEvent, RunSession, WaitingThreads, WorkerPool, type Workers } from './launch/index.ts';
import { baselinesOf, evaluationSize, type PreparedRun } from './prepare.ts';
import { writeFileAtomically } from './run/atomic.ts';
import {
  CheckpointReader,
  MetricsLog,
  type NatsPlace,
  openStore,
  type RunFolder,
  type RunSummary,
  readMetrics,
  type UsableCheckpoint,
  verifyCheckpoint,
  writeSummary,
} from './run/index.ts';
import { schedulerNamed } from './scheduler.ts';

/** A run that is about to launch its workers. */
export interface Execution {
  readonly prepared: PreparedRun;
  readonly folder: RunFolder;
  readonly model: ResolvedModel;
  /** `performance.now()` when the user asked for the run. */
  readonly began: number;
  readonly signal: AbortSignal | null;
  /** The checkpoint to continue from, or null. */
  readonly from: UsableCheckpoint | null;
  /** The connection that the run has anyway, if it has one. */
  readonly nats?: NatsPlace;
  /** Where real clients take the place of simulated ones (with `nats`): how many to wait for, and who hears of them. */
  readonly clients?: { readonly min: number | null; readonly emit: (event: RunEvent) => void };
  /** Threads that have been started already, for whoever starts threads of this process. */
  readonly waiting?: WaitingThreads | null;
  /** Starts the workers; null if the signal was raised meanwhile. Default: threads of this process. */
  readonly launch?: (execution: Execution, signal: AbortSignal) => Promise<Launched | null>;
}

/** Workers that are ready. */
export interface Launched {
  readonly workers: Workers;
  /** By rank. */
  readonly ready: readonly ReadyEvent[];
  /** Completed steps from which they go on. */
  readonly step: number;
  /** The mesh of the moment. */
  mesh(): MeshShape;
  /** Times that workers were lost and the run went on, in this process. */
  recoveries(): number;
  /** What the run had behind it, where no checkpoint says so. */
  readonly before?: { readonly wall: number; readonly recoveries: number };
}

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

/** Launches workers, lets the scheduler drive them, and ends everything, whatever happens. */
export async function* execute(execution: Execution): AsyncGenerator<RunEvent, void> {
  const { prepared, folder, began, from, launch = launchThreads } = execution;
  const { config, plan, dataset, engine, unit } = prepared;
  const { name, ...own } = config.scheduler;
  const scheduler = schedulerNamed(name);
  if (scheduler.alone) {
    yield* scheduler.alone(execution, own);
    return;
  }
  const signal = execution.signal ?? new AbortController().signal;
  let before = {
    step: from?.index.step ?? 0,
    wall: from?.index.wall_s ?? 0,
    recoveries: from?.index.recoveries ?? 0,
  };
  for (const message of prepared.warnings) yield { type: 'warning', message };
  const wall = (): number => before.wall + (performance.now() - began) / 1000;
  const opened = await openStore(config, folder, execution.nats ?? null);
  let log: MetricsLog | null = null;
  let workers: Workers | null = null;
  let session: RunSession | null = null;
  const finished = (summary: RunSummary | null): RunEvent => ({
    type: 'finished',
    status: summary ? 'completed' : 'interrupted',
    runId: folder.id,
    dir: folder.path,
    step: session?.position ?? before.step,
    summary,
    checkpoint: session ? session.checkpointPath : (from?.path ?? null),
  });
  try {
    yield { type: 'preparing', what: 'workers' };
    const starting = launch(execution, signal).catch((error: unknown) => {
      if (signal.aborted && error === signal.reason) return null;
      throw error;
    });
    // While they compile. Whatever comes of it, the workers must be waited for, so that they can be ended.
    const counted = Promise.resolve().then(() => baselinesOf(prepared));
    const [outcome] = await Promise.allSettled([starting, counted]);
    if (outcome.status === 'rejected') throw outcome.reason;
    const started = outcome.value;
    workers = started?.workers ?? null;
    const baselines = await counted;
    if (!started) {
      yield finished(null);
      return;
    }
    before = { ...before, ...started.before, step: started.step };
    log = await MetricsLog.open(folder.metrics, before.step);
    const recoveries = (): number => before.recoveries + started.recoveries();
    const { ready } = started;
    const engineVersion = ready[0]?.engineVersion ?? engine.kind;
    session = new RunSession(
      {
        config,
        pool: started.workers,
        store: opened.store,
        log,
        signal,
        step: before.step,
        microbatches: plan.batch.microbatches,
        tokensPerExample: dataset.tokensPerExample,
        unit,
        folder: folder.path,
        plan: prepared.scheduling?.plan ?? null,
        model: prepared.model,
        flops: exampleFlops(prepared),
        from: from?.index.step === before.step ? from : null,
        largestPrediction: largestPrediction(plan.summary, config.batch.micro),
        evaluationMicrobatches: (split) => evaluationSize(prepared, split),
        checkpointInfo: () => ({
          seed: config.seed,
          batch: config.batch,
          engine: `${engineVersion}, ${engine.threads} threads`,
          mesh: started.mesh(),
          wall_s: wall(),
          recoveries: recoveries(),
        }),
      },
      from?.index.step === before.step ? from.path : null,
    );
    yield {
      type: 'started',
      runId: folder.id,
      dir: folder.path,
      mesh: started.mesh(),
      world: started.workers.world,
      threads: engine.threads,
      engine: engineVersion,
      parameters: prepared.params.reduce((sum, { bytes }) => sum + bytes / 4, 0),
      microbatches: plan.batch.microbatches,
      step: before.step,
      steps: config.train.steps,
      unit,
      baselines,
      workers: ready.map(({ paramBytes, optimizerBytes, compile }, rank) => ({
        rank,
        paramBytes,
        optimizerBytes,
        executables: compile.executables,
        cacheHits: compile.cacheHits,
        compileMs: compile.totalMs,
      })),
      startMs: performance.now() - began,
    };
    yield* drive(session);
    const traces = await started.workers.stop();
    await log.close();
    if (config.run.trace) await writeFileAtomically(folder.trace, JSON.stringify({ traceEvents: traces.flat() }));
    if (session.position < config.train.steps) {
      yield finished(null);
      return;
    }
    const summary = await summarise(prepared, session, { baselines, log, wall_s: wall(), recoveries: recoveries() });
    await writeSummary(folder.summary, summary);
    if (config.generate.characters > 0 && unit === 'tokens' && session.checkpointPath)
      yield { type: 'sampled', ...(await sampleText(prepared, session.checkpointPath)) };
    yield finished(summary);
  } catch (error) {
    if (session) {
      // The copies outlive the workers: what is being written of them is the newest that there is to go on from.
      await session.settle();
      yield* session.news();
    }
    if (error instanceof RunFailure) {
      error.checkpoint = session ? session.checkpointPath : (from?.path ?? null);
      if (error.flight.length > 0) {
        const text = `${JSON.stringify(error.flight, null, 1)}\n`;
        error.flightFile = await writeFileAtomically(folder.flight, text).then(
          () => folder.flight,
          // (A disk that is full, say.) The failure itself is what has to be told.
          () => null,
        );
      }
      yield { type: 'failed', failure: error };
    }
    throw error;
  } finally {
    await workers?.terminate();
    await session?.settle();
    // A run that goes well has closed it before. Otherwise the error that ends the run is the one to tell.
    await log?.close().catch(() => undefined);
    await opened.close();
  }
}

/** The module that threads of a run's ranks run. */
function entryOf({ scheduler }: ResolvedConfig): URL {
  return schedulerNamed(scheduler.name).entry?.() ?? workerEntryUrl();
}

/**
 * Starts the threads of a run that has not been prepared yet, so that both take their time together. Null where the scheduler wants
 * none, or no core would be left for the preparation.
 */
export function startThreadsAhead(config: ResolvedConfig): WaitingThreads | null {
  const world = worldSize(config.parallel);
  if (schedulerNamed(config.scheduler.name).alone || world >= availableParallelism() || 'Deno' in globalThis)
    return null;
  return new WaitingThreads(entryOf(config), world);
}

/** Starts one thread of this process for each rank. */
async function launchThreads(execution: Execution, signal: AbortSignal): Promise<Launched> {
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

async function summarise(
  prepared: PreparedRun,
  session: RunSession,
  known: { baselines: Readonly<Record<string, number>>; log: MetricsLog; wall_s: number; recoveries: number },
): Promise<RunSummary> {
  const { config, dataset } = prepared;
  const path = session.checkpointPath;
  if (path === null) throw new Error('the scheduler ended without a checkpoint of the last step');
  const reader = await CheckpointReader.open(path, await verifyCheckpoint(path));
  try {
    const evaluation = session.evaluations.get(config.train.eval_split);
    const accuracy = evaluation?.metrics.accuracy;
    const steps = session.position;
    return {
      steps,
      loss: known.log.losses[steps - 1] as number,
      val_loss: evaluation?.loss ?? null,
      ...(typeof accuracy === 'number' ? { accuracy } : {}),
      baselines: known.baselines,
      wall_s: Math.round(known.wall_s * 1000) / 1000,
      tokens_per_s: session.ratePerSecond(config.batch.global * dataset.tokensPerExample),
      weights_sha256: await reader.weightsSha256(),
      losses_sha256: known.log.sha256(),
      samples_seen: steps * config.batch.global,
      recoveries: known.recoveries,
      ...session.reported,
      ...(await communication(known.log.path)),
      ...(prepared.local ? { comm_bytes_synchronous: steps * gradientExchangeBytes(prepared.plan) } : {}),
    };
  } finally {
    await reader.close();
  }
}

/** Bytes between ranks over all steps, interrupted ones of a resumed run included. */
async function communication(metrics: string): Promise<Pick<RunSummary, 'comm_bytes' | 'comm_bytes_saved'>> {
  const lines = await readMetrics(metrics);
  const total = (key: string) => lines.reduce((sum, line) => sum + Number(line[key] ?? 0), 0);
  const saved = total('comm_bytes_saved');
  return { comm_bytes: total('comm_bytes'), ...(saved === 0 ? {} : { comm_bytes_saved: saved }) };
}

/** What one example of a training step takes. */
function exampleFlops({ plan: { summary, stages }, config }: PreparedRun): { forward: number; backward: number } {
  const { forward, backward } = sumFlops(stages.map((stage) => stageFlops(summary, stage)));
  return { forward: forward / config.batch.micro, backward: backward / config.batch.micro };
}

function instructionNames({ plan }: PreparedRun) {
  return (rank: number, mode: number, index: number): string => {
    const instruction = (mode === 1 ? plan.evaluate : plan.programs)[rank]?.instructions[index];
    return instruction ? formatInstruction(instruction) : `instruction ${index}`;
  };
}
