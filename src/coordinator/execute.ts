import { largestPrediction, stageFlops, sumFlops } from '../plan/index.ts';
import type { RunEvent } from './events.ts';
import type { Execution } from './execution.ts';
import { RunFailure } from './failure.ts';
import { sampleText } from './generate/index.ts';
import { drive, RunSession, type Workers } from './launch/index.ts';
import { launchThreads } from './launch-threads.ts';
import { baselinesOf, evaluationSize, type PreparedRun } from './prepare.ts';
import { writeFileAtomically } from './run/atomic.ts';
import { MetricsLog, openStore, type RunSummary, writeSummary } from './run/index.ts';
import { schedulerNamed } from './scheduler.ts';
import { summarise } from './summarise.ts';

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
    const stretches = prepared.scheduling?.stretches ?? [];
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
        stretches,
        folder: folder.path,
        oneGradient: prepared.local === null,
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

/** What one example of a training step takes. */
function exampleFlops({ plan: { summary, stages }, config }: PreparedRun): { forward: number; backward: number } {
  const { forward, backward } = sumFlops(stages.map((stage) => stageFlops(summary, stage)));
  return { forward: forward / config.batch.micro, backward: backward / config.batch.micro };
}
