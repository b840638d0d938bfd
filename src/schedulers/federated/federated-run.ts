import { availableParallelism } from 'node:os';
import { type Execution, folderStore, MetricsLog, type RunEvent, writeSummary } from '../../coordinator/index.ts';
import type { Partition, SplitName } from '../../data/index.ts';
import { initParams, initState, modelParams, modelState } from '../../modules/index.ts';
import type { HostTensor } from '../../tensor/index.ts';
import { partOf, type VectorLayout, vectorLayout } from '../local/index.ts';
import { FitPool } from './fit-pool.ts';
import { makePartition, type PartitionConfig } from './round-schema.ts';
import { type FederatedStep, readTotals, recorded, summarise, type Totals, totalsTensor } from './run-record.ts';
import { type Layouts, readModel, type SavedTensors, withSaved, writeModel } from './saved-tensors.ts';
import { setAside } from './shared-examples.ts';

/** Keys that all federated runs have, whether they work in rounds or not. */
export interface FederatedConfig {
  readonly clients: number;
  readonly local_batch: number;
  readonly partition: PartitionConfig;
  readonly threads: number;
}

/** What a federated training is made of. */
export interface FederatedParts {
  readonly execution: Execution;
  readonly pool: FitPool;
  readonly partition: Partition;
  readonly layouts: Layouts;
  readonly seed: number;
  /** Parameters and module state to begin with: drawn from the seed, or the checkpoint's. The training's own from now on. */
  readonly params: Float32Array;
  readonly state: Float32Array;
  /** Completed steps. */
  readonly step: number;
  /** The checkpoint that the run goes on from; open until the training is made. */
  readonly saved: SavedTensors | null;
}

/** A way of training clients together, step by step. Everything in it is a function of the seed and what `tensors` gives. */
export interface FederatedTraining {
  /** Makes the next step. */
  next(): Promise<FederatedStep>;
  /** What is evaluated and what a run ends with. */
  model(): { readonly params: Float32Array; readonly state: Float32Array };
  /** What going on needs besides the model, by name. Names must not begin with `param/`, `state/` or `run/`. */
  tensors(): Readonly<Record<string, HostTensor>>;
  /** What it adds to summary.json. */
  summary?(): Readonly<Record<string, unknown>>;
  /** Waits for what is under way and lets go of everything; the pool is still open. */
  close?(): Promise<void>;
}

/** How a federated run is made: what its clients do, and who tells them when. */
export interface FederatedPlan {
  /** Clients that train in a step, for whoever watches. */
  readonly width: number;
  readonly objective: { readonly name: string; readonly config: unknown };
  /** Training examples that are set aside for all clients to see. */
  readonly sharedExamples?: number;
  make(parts: FederatedParts): Promise<FederatedTraining>;
}

/**
 * Runs a federated training with simulated clients: `train.steps` steps, with evaluations, checkpoints and metrics as in any other
 * run. An interrupted run goes on from its checkpoint to the same bits.
 */
export async function* runFederated(
  execution: Execution,
  settings: FederatedConfig,
  planned: (shape: Layouts) => FederatedPlan,
): AsyncGenerator<RunEvent, void> {
  const { prepared, folder, began, from } = execution;
  const { config, dataset, model } = prepared;
  const signal = execution.signal ?? new AbortController().signal;
  const { train } = config;
  const layouts = { params: vectorLayout(modelParams(model)), state: vectorLayout(modelState(model)) };
  const first = from?.index.step ?? 0;
  for (const message of prepared.warnings) yield { type: 'warning', message };
  const plan = planned(layouts);
  const { partition, shared } = partitioned(execution, settings, plan.sharedExamples ?? 0);
  const threads = settings.threads > 0 ? settings.threads : availableParallelism();
  const checkpoints = folderStore(folder.checkpoints);
  let step = first;
  let totals: Totals = { samples: 0, seconds: 0, bytes: 0 };
  let log: MetricsLog | null = null;
  let pool: FitPool | null = null;
  let training: FederatedTraining | null = null;
  let saved: { readonly step: number; readonly path: string } | null = from ? { step: first, path: from.path } : null;
  let evaluation: { readonly step: number; readonly loss: number; readonly accuracy: number | null } | null = null;
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
        batch: settings.local_batch,
        shared,
      },
      threads,
    });
    pool = clients;
    const make = async (open: SavedTensors | null): Promise<FederatedTraining> => {
      const { params, state } = await initialModel(execution, layouts, open);
      if (open) totals = await readTotals(open);
      const seed = config.seed;
      return plan.make({ execution, pool: clients, partition, layouts, seed, params, state, step, saved: open });
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
      startMs: performance.now() - began,
    };
    const evaluate = async (part: SplitName): Promise<RunEvent> => {
      const before = performance.now();
      const examples = Int32Array.from({ length: dataset.split(part).examples }, (_, i) => i);
      const { params, state } = trained.model();
      const report = await clients.evaluate(clients.publish(params, state), part, examples);
      const loss = report.loss / report.examples;
      const accuracy = report.correct === null ? null : report.correct / report.examples;
      evaluation = { step, loss, accuracy };
      return {
        type: 'evaluated',
        step,
        split: part,
        microbatches: 1,
        loss,
        metrics: { loss, ...(accuracy === null ? {} : { accuracy }) },
        ms: performance.now() - before,
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
    const due = (every: number) => every > 0 && step % every === 0 && step < train.steps;
    while (step < train.steps && !signal.aborted) {
      const report = await trained.next();
      step += 1;
      totals = {
        samples: totals.samples + report.examples,
        seconds: totals.seconds + report.seconds,
        bytes: totals.bytes + report.bytes,
      };
      yield await recorded(metrics, step, report, prepared.unit);
      if (due(train.eval_every)) yield await evaluate(train.eval_split);
      if (due(train.checkpoint_every)) yield await checkpoint();
    }
    const complete = step >= train.steps;
    if (complete) yield await evaluate(train.eval_split);
    if (saved?.step !== step) yield await checkpoint();
    const summary = complete
      ? await summarise({
          log: metrics,
          step,
          totals,
          wall: wall(),
          evaluation,
          saved,
          more: trained.summary?.() ?? {},
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

/** The clients' examples, and those for all to see. A partition that cannot be made is something wrong with the config. */
function partitioned(
  { prepared: { config, dataset } }: Execution,
  settings: FederatedConfig,
  sharedExamples: number,
): { readonly partition: Partition; readonly shared: Int32Array | null } {
  const split = dataset.split('train');
  const source = { examples: split.examples, labels: split.labels ?? null };
  const { seed } = config;
  try {
    const { shared, rest, of } = setAside(source, sharedExamples, seed);
    return { partition: of(makePartition(settings.partition, rest, { clients: settings.clients, seed })), shared };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw config.origin.fail(
      [{ path: ['scheduler', 'partition'], message: `scheduler.partition: ${error.message}` }],
      error,
    );
  }
}

/** Parameters and module state to begin with: drawn from the seed, or read from a checkpoint. */
async function initialModel({ prepared }: Execution, layouts: Layouts, saved: SavedTensors | null) {
  const params = new Float32Array(layouts.params.size);
  const state = new Float32Array(layouts.state.size);
  const fill = (vector: Float32Array, layout: VectorLayout, tensors: Readonly<Record<string, HostTensor>>) => {
    for (const place of layout.places) partOf(vector, place).set(tensors[place.path]?.data as Float32Array);
  };
  if (saved) await readModel(saved, layouts, params, state);
  else {
    fill(params, layouts.params, initParams(modelParams(prepared.model), prepared.config.seed));
    fill(state, layouts.state, initState(modelState(prepared.model)));
  }
  return { params, state };
}
