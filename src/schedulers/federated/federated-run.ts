import { availableParallelism } from 'node:os';
import { type Execution, folderStore, MetricsLog, type RunEvent, writeSummary } from '../../coordinator/index.ts';
import type { SplitName } from '../../data/index.ts';
import { modelParams, modelState } from '../../modules/index.ts';
import { objectiveNamed, vectorLayout } from '../local/index.ts';
import { ClientMetrics } from './client-metrics.ts';
import { nobodysExamples, notDeployable, RoundsFailed } from './deployment/index.ts';
import type { FederatedConfig, FederatedPlan, FederatedTraining } from './federated-plan.ts';
import { FitPool } from './fit-pool.ts';
import { initialModel } from './initial-model.ts';
import { localBatch } from './round-schema.ts';
import { overAllSteps, readTotals, recorded, summarise, type Totals, totalsTensor } from './run-record.ts';
import { type Layouts, type SavedTensors, withSaved, writeModel } from './saved-tensors.ts';
import { shareOut } from './share-out.ts';
import { TargetRecord } from './target-record.ts';
import { whileUnderway } from './while-underway.ts';

/**
 * Runs a federated training with simulated clients: `train.steps` steps, with evaluations, checkpoints and metrics as in any other
 * run. An interrupted run goes on from its checkpoint to the same bits.
 */
export async function* runFederated(
  execution: Execution,
  settings: FederatedConfig,
  planned: (shape: Layouts, clients: number) => FederatedPlan,
  /** Training examples that are set aside for all clients to see. */
  sharedExamples = 0,
): AsyncGenerator<RunEvent, void> {
  const { prepared, folder, began, from } = execution;
  const { config, dataset, model } = prepared;
  const signal = execution.signal ?? new AbortController().signal;
  const { train } = config;
  const layouts = { params: vectorLayout(modelParams(model)), state: vectorLayout(modelState(model)) };
  const first = from?.index.step ?? 0;
  const refused = execution.clients ? notDeployable(execution, sharedExamples) : null;
  if (refused) {
    const message = `scheduler ${config.scheduler.name}: ${refused}`;
    throw config.origin.fail([{ path: ['scheduler', 'name'], message }]);
  }
  for (const message of prepared.warnings) yield { type: 'warning', message };
  const { partition, measured, shared, picture } = execution.clients
    ? nobodysExamples(settings.clients)
    : await shareOut(execution, settings, sharedExamples);
  const plan = planned(layouts, partition.clients);
  if (plan.caution) yield { type: 'warning', message: plan.caution };
  if (execution.clients && !plan.remote) {
    const message = `scheduler ${config.scheduler.name} has no server, and only simulates clients: leave --nats out`;
    throw config.origin.fail([{ path: ['scheduler', 'name'], message }]);
  }
  // What a client's examples are depends on the task, where there are tasks.
  const watched = plan.continual ? { ...settings.client_metrics, clients: 0 } : settings.client_metrics;
  const figures = new ClientMetrics(measured, watched, config.seed);
  const personal = hasOwnModels(plan.objective, layouts);
  const threads = settings.threads > 0 ? settings.threads : execution.clients ? 1 : availableParallelism();
  const checkpoints = folderStore(folder.checkpoints);
  let step = first;
  let totals: Totals = { samples: 0, seconds: 0, bytes: 0 };
  let log: MetricsLog | null = null;
  let pool: FitPool | null = null;
  let training: FederatedTraining | null = null;
  let saved: { readonly step: number; readonly path: string } | null = from ? { step: first, path: from.path } : null;
  let evaluation: { readonly step: number; readonly loss: number; readonly accuracy: number | null } | null = null;
  let differ: Readonly<Record<string, number>> | null = null;
  const wall = () => (from?.index.wall_s ?? 0) + (performance.now() - began) / 1000;
  try {
    yield { type: 'preparing', what: 'workers' };
    const clients = await FitPool.start({
      job: {
        seed: config.seed,
        model: execution.model,
        optim: config.optim,
        data: prepared.data,
        engine: { ...config.engine, threads: 1 },
        objective: plan.objective,
        batch: localBatch(settings),
        shared,
        shift: settings.feature_shift,
        ...(plan.continual ? { continual: plan.continual } : {}),
        ...(settings.compression ? { compression: settings.compression } : {}),
      },
      threads,
    });
    pool = clients;
    const make = async (open: SavedTensors | null): Promise<FederatedTraining> => {
      const { params, state } = await initialModel(execution, layouts, open);
      if (open) totals = await readTotals(open);
      const seed = config.seed;
      return plan.make({
        execution,
        pool: clients,
        partition,
        measured,
        layouts,
        seed,
        params,
        state,
        step,
        seconds: totals.seconds,
        saved: open,
      });
    };
    const trained = await (from ? withSaved(from, make) : make(null));
    training = trained;
    const metrics = await MetricsLog.open(folder.metrics, first);
    log = metrics;
    yield {
      type: 'started',
      runId: folder.id,
      dir: folder.path,
      mesh: { data: 1, pipeline: 1, expert: 1 },
      world: threads,
      threads: 1,
      engine: prepared.engine.kind,
      parameters: layouts.params.size,
      microbatches: plan.width,
      step: first,
      steps: train.steps,
      unit: 'examples',
      baselines: {},
      workers: [],
      federated: {
        steps: plan.steps ?? 'rounds',
        clients: partition.clients,
        width: Math.min(plan.width, partition.clients),
        simulatedSeconds: execution.clients ? null : totals.seconds,
        picture: picture === '' ? null : picture,
      },
      startMs: performance.now() - began,
    };
    const target = await TargetRecord.open(folder.metrics, first, settings);
    const evaluate = async (part: SplitName): Promise<Evaluation> => {
      const before = performance.now();
      const examples = Int32Array.from({ length: dataset.split(part).examples }, (_, i) => i);
      const { params, state } = trained.model();
      const start = clients.publish(params, state);
      const report = await (trained.evaluate?.(start) ?? clients.evaluate(start, part, examples));
      const loss = report.loss / report.examples;
      const accuracy = report.correct === null ? null : report.correct / report.examples;
      const each = await (trained.figures?.() ??
        figures.measure(clients, start, personal ? (trained.kept?.bind(trained) ?? null) : null));
      evaluation = { step, loss, accuracy };
      differ = each?.metrics ?? null;
      if (accuracy !== null) target.evaluated(step, accuracy);
      const own = { ...(accuracy === null ? {} : { accuracy }), ...each?.metrics };
      const ms = performance.now() - before;
      return {
        event: { type: 'evaluated', step, split: part, microbatches: 1, loss, metrics: { loss, ...own }, ms },
        notes: { [`${part}_loss`]: loss, ...own, ...each?.notes },
      };
    };
    const checkpoint = async (): Promise<RunEvent> => {
      const before = performance.now();
      await metrics.flush();
      const info = {
        step,
        seed: config.seed,
        batch: config.batch,
        engine: `${prepared.engine.kind}, 1 threads`,
        mesh: { data: 1, pipeline: 1, expert: 1 },
        wall_s: wall(),
        recoveries: 0,
      };
      const { path, bytes } = await checkpoints.save(info, (dir) =>
        writeModel(dir, layouts, trained.model(), { ...trained.tensors(), ...totalsTensor(totals) }),
      );
      saved = { step, path };
      await checkpoints.prune({ last: train.keep_last, every: train.keep_every });
      const ms = performance.now() - before;
      return { type: 'checkpointed', step, path, bytes, waitMs: ms, ms };
    };
    const due = (every: number) => every > 0 && step % every === 0;
    let looked: Evaluation | null = null;
    let failure: RoundsFailed | null = null;
    while (step < train.steps && !target.stops && !signal.aborted) {
      const next = trained.next();
      for await (const clients of whileUnderway(next, () => trained.underway?.() ?? null))
        yield { type: 'underway', step, ...clients };
      const report = await next.catch((error: unknown) => {
        if (!(error instanceof RoundsFailed)) throw error;
        failure = error;
        return null;
      });
      // Stopped, or no way to go on: what was reached is kept.
      if (report === null) break;
      step += 1;
      totals = {
        samples: totals.samples + report.examples,
        seconds: totals.seconds + (report.seconds ?? 0),
        bytes: totals.bytes + report.bytes,
      };
      const last = step >= train.steps;
      looked = last || due(train.eval_every) ? await evaluate(train.eval_split) : null;
      // What an evaluation found is in the line of its step, and so stays with it when a run goes on.
      yield await recorded(metrics, step, report, prepared.unit, looked?.notes ?? {});
      if (looked) yield looked.event;
      yield* report.events ?? [];
      if (!last && due(train.checkpoint_every)) yield await checkpoint();
    }
    const complete = step >= train.steps || target.stops;
    if (complete && !looked) yield (await evaluate(train.eval_split)).event;
    if (saved?.step !== step) yield await checkpoint();
    if (failure) throw failure;
    const over = complete ? await overAllSteps(metrics) : {};
    if (over.rounds_uncounted === step) {
      const message = `none of ${step} rounds changed the parameters: ${over.uncounted}; metrics.jsonl names the clients (dropped_clients)`;
      yield { type: 'warning', message };
    }
    const summary = complete
      ? await summarise({
          log: metrics,
          step,
          totals,
          simulated: !execution.clients,
          wall: wall(),
          evaluation,
          saved,
          more: {
            ...over,
            ...target.summary(),
            ...(differ ? { clients: differ } : {}),
            ...(await trained.summary?.()),
          },
        })
      : null;
    await metrics.close();
    if (summary) await writeSummary(folder.summary, summary);
    yield {
      type: 'finished',
      status: summary ? 'completed' : 'interrupted',
      runId: folder.id,
      dir: folder.path,
      step,
      summary,
      checkpoint: (saved as { readonly path: string } | null)?.path ?? null,
    };
  } finally {
    await training?.close?.();
    await pool?.close();
    await log?.close().catch(() => undefined);
  }
}

/** An evaluation, and what the line of its step says of it. */
interface Evaluation {
  readonly event: RunEvent;
  readonly notes: Readonly<Record<string, unknown>>;
}

/** Whether what clients keep makes models of their own. */
function hasOwnModels({ name, config }: FederatedPlan['objective'], layouts: Layouts): boolean {
  const { own, personal } = objectiveNamed(name, config);
  const places = [...layouts.params.places, ...layouts.state.places];
  return own !== undefined || places.some(({ path, shape }) => personal?.({ path, shape, decay: false }) ?? false);
}
