import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import {
  CheckpointReader,
  type Execution,
  folderStore,
  MetricsLog,
  type RunEvent,
  type RunSummary,
  verifyCheckpoint,
  writeSummary,
} from '../../coordinator/index.ts';
import type { Partition, SplitName } from '../../data/index.ts';
import { initParams, initState, modelParams, modelState } from '../../modules/index.ts';
import { float32, type HostTensor, writeSafetensors } from '../../tensor/index.ts';
import { partOf, type VectorLayout, vectorLayout } from '../local/index.ts';
import { clientBehaviour } from './behaviour.ts';
import { ClientStore } from './client-store.ts';
import { FitPool } from './fit-pool.ts';
import { makePartition, type RoundConfig } from './round-schema.ts';
import { type RoundReport, RoundSimulation } from './simulation.ts';
import type { FederatedServer, FederatedStrategy } from './strategy.ts';

/** Names of a federated run's tensors in checkpoints, besides those of parameters and module state. */
const nameOf = {
  param: (path: string) => `param/${path}`,
  state: (path: string) => `state/${path}`,
  server: (name: string) => `server/${name}`,
  client: (client: number, name: string) => `client/${client}/${name}`,
};

/**
 * Runs a federated strategy with simulated clients: `train.steps` rounds, with evaluations, checkpoints and metrics as in any other
 * run. An interrupted run goes on from its checkpoint to the same bits.
 */
export async function* runRounds(
  execution: Execution,
  strategy: FederatedStrategy,
  settings: RoundConfig & Readonly<Record<string, unknown>>,
): AsyncGenerator<RunEvent, void> {
  const { prepared, folder, began, from } = execution;
  const { config, dataset, model } = prepared;
  const signal = execution.signal ?? new AbortController().signal;
  const { train } = config;
  const layouts = { params: vectorLayout(modelParams(model)), state: vectorLayout(modelState(model)) };
  const first = from?.index.step ?? 0;
  for (const message of prepared.warnings) yield { type: 'warning', message };
  const partition = partitioned(execution, settings);
  const server = strategy.server(settings as never, { ...layouts, clients: settings.clients, seed: config.seed });
  const store = new ClientStore();
  const threads = settings.threads > 0 ? settings.threads : availableParallelism();
  const checkpoints = folderStore(folder.checkpoints);
  let log: MetricsLog | null = null;
  let pool: FitPool | null = null;
  let saved: { readonly step: number; readonly path: string } | null = from ? { step: first, path: from.path } : null;
  let evaluation: { readonly step: number; readonly loss: number; readonly accuracy: number | null } | null = null;
  const wall = () => (from?.index.wall_s ?? 0) + (performance.now() - began) / 1000;
  try {
    yield { type: 'preparing', what: 'workers' };
    pool = await FitPool.start({
      job: {
        seed: config.seed,
        model: execution.model,
        optim: config.optim,
        data: prepared.data,
        engine: { ...config.engine, threads: 1 },
        objective: strategy.objective?.(settings as never) ?? { name: 'none', config: {} },
        batch: settings.local_batch,
      },
      threads,
    });
    const { params, state } = await initialVectors(execution, layouts, server, store);
    log = await MetricsLog.open(folder.metrics, first);
    const simulation = new RoundSimulation(
      {
        pool,
        partition,
        server,
        store,
        behaviour: clientBehaviour(settings.behaviour, config.seed),
        seed: config.seed,
        cohort: settings.cohort,
        quorum: settings.quorum,
        local: { epochs: settings.local_epochs, batch: settings.local_batch },
        deadlineSeconds: settings.round_deadline_s,
        maxNorm: settings.max_norm,
      },
      params,
      state,
      first,
    );
    yield {
      type: 'started',
      runId: folder.id,
      dir: folder.path,
      mesh: { data: 1, pipeline: 1, expert: 1 },
      world: threads,
      threads: 1,
      engine: prepared.engine.kind,
      parameters: layouts.params.size,
      microbatches: settings.cohort,
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
      const report = await (pool as FitPool).evaluate((pool as FitPool).publish(params, state), part, examples);
      const loss = report.loss / report.examples;
      const accuracy = report.correct === null ? null : report.correct / report.examples;
      evaluation = { step: simulation.round, loss, accuracy };
      return {
        type: 'evaluated',
        step: simulation.round,
        split: part,
        microbatches: 1,
        loss,
        metrics: { loss, ...(accuracy === null ? {} : { accuracy }) },
        ms: performance.now() - before,
      };
    };
    const checkpoint = async (): Promise<RunEvent> => {
      const before = performance.now();
      await log?.flush();
      const info = {
        step: simulation.round,
        seed: config.seed,
        batch: config.batch,
        engine: `${prepared.engine.kind}, 1 threads`,
        mesh: { data: 1, pipeline: 1, expert: 1 },
        wall_s: wall(),
        recoveries: 0,
      };
      const { path, bytes } = await checkpoints.save(info, (dir) =>
        writeShard(dir, layouts, { params, state, server, store }),
      );
      saved = { step: simulation.round, path };
      await checkpoints.prune({ last: train.keep_last, every: train.keep_every });
      return {
        type: 'checkpointed',
        step: simulation.round,
        path,
        bytes,
        waitMs: performance.now() - before,
        ms: performance.now() - before,
      };
    };
    const due = (every: number) => every > 0 && simulation.round % every === 0 && simulation.round < train.steps;
    while (simulation.round < train.steps && !signal.aborted) {
      const report = await simulation.next();
      yield await recorded(log, report, prepared.unit);
      if (due(train.eval_every)) yield await evaluate(train.eval_split);
      if (due(train.checkpoint_every)) yield await checkpoint();
    }
    const complete = simulation.round >= train.steps;
    if (complete) yield await evaluate(train.eval_split);
    if (saved?.step !== simulation.round) yield await checkpoint();
    const summary = complete ? await summarise(execution, simulation, { log, wall: wall(), evaluation, saved }) : null;
    await log.close();
    if (summary) await writeSummary(folder.summary, summary);
    yield {
      type: 'finished',
      status: summary ? 'completed' : 'interrupted',
      runId: folder.id,
      dir: folder.path,
      step: simulation.round,
      summary,
      checkpoint: (saved as { readonly path: string } | null)?.path ?? null,
    };
  } finally {
    await pool?.close();
    store.close();
    await log?.close().catch(() => undefined);
  }
}

/** The clients' examples. A partition that cannot be made is something wrong with the config. */
function partitioned({ prepared: { config, dataset } }: Execution, settings: RoundConfig): Partition {
  const split = dataset.split('train');
  const source = { examples: split.examples, labels: split.labels ?? null };
  try {
    return makePartition(settings.partition, source, { clients: settings.clients, seed: config.seed });
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw config.origin.fail(
      [{ path: ['scheduler', 'partition'], message: `scheduler.partition: ${error.message}` }],
      error,
    );
  }
}

/** Writes a round's line, and says what the progress shows. */
async function recorded(log: MetricsLog, report: RoundReport, unit: string): Promise<RunEvent> {
  const step = report.round + 1;
  const perSecond = (report.examples * 1000) / report.ms;
  const metrics = {
    loss: report.loss,
    clients: report.completed,
    dropped: report.dropped.length,
    simulated_s: report.seconds,
    bytes_down: report.bytesDown,
    bytes_up: report.bytesUp,
  };
  await log.append({
    step,
    ...metrics,
    [`${unit}_per_s`]: Math.round(perSecond * 10) / 10,
    step_ms: Math.round(report.ms * 1000) / 1000,
    counted: report.counted,
    dropped_clients: report.dropped,
  });
  return {
    type: 'step',
    step,
    loss: report.loss,
    gradNorm: Number.NaN,
    lr: Number.NaN,
    perSecond,
    stepMs: report.ms,
    commMs: 0,
    commBytes: report.bytesDown + report.bytesUp,
    commBytesSaved: 0,
    metrics,
  };
}

interface Layouts {
  readonly params: VectorLayout;
  readonly state: VectorLayout;
}

/** Parameters and module state to begin with: drawn from the seed, or read from a checkpoint with all that goes with them. */
async function initialVectors(
  { prepared, from }: Execution,
  layouts: Layouts,
  server: FederatedServer,
  store: ClientStore,
): Promise<{ params: Float32Array; state: Float32Array }> {
  const params = new Float32Array(layouts.params.size);
  const state = new Float32Array(layouts.state.size);
  const fill = (vector: Float32Array, layout: VectorLayout, tensors: Readonly<Record<string, HostTensor>>) => {
    for (const place of layout.places) partOf(vector, place).set(tensors[place.path]?.data as Float32Array);
  };
  if (!from) {
    fill(params, layouts.params, initParams(modelParams(prepared.model), prepared.config.seed));
    fill(state, layouts.state, initState(modelState(prepared.model)));
    return { params, state };
  }
  const reader = await CheckpointReader.open(from.path, from.index);
  try {
    const take = async (into: Float32Array, name: string) => into.set((await reader.read(name)).data as Float32Array);
    for (const place of layouts.params.places) await take(partOf(params, place), nameOf.param(place.path));
    for (const place of layouts.state.places) await take(partOf(state, place), nameOf.state(place.path));
    for (const [name, vector] of Object.entries(server.vectors ?? {})) await take(vector, nameOf.server(name));
    const kept = new Map<number, Record<string, Float32Array>>();
    for (const name of reader.names()) {
      const match = /^client\/(\d+)\/(.+)$/.exec(name);
      if (!match) continue;
      const client = Number(match[1]);
      const vectors = kept.get(client) ?? {};
      kept.set(client, vectors);
      vectors[match[2] as string] = Float32Array.from((await reader.read(name)).data as Float32Array);
    }
    for (const [client, vectors] of kept) store.set(client, vectors);
    return { params, state };
  } finally {
    await reader.close();
  }
}

/** One file with everything that going on needs: parameters, module state, the server's vectors, the clients'. */
async function writeShard(
  dir: string,
  layouts: Layouts,
  held: {
    readonly params: Float32Array;
    readonly state: Float32Array;
    readonly server: FederatedServer;
    readonly store: ClientStore;
  },
) {
  const tensors: Record<string, HostTensor> = {};
  for (const place of layouts.params.places)
    tensors[nameOf.param(place.path)] = float32(partOf(held.params, place), place.shape);
  for (const place of layouts.state.places)
    tensors[nameOf.state(place.path)] = float32(partOf(held.state, place), place.shape);
  for (const [name, vector] of Object.entries(held.server.vectors ?? {}))
    tensors[nameOf.server(name)] = float32(vector, [vector.length]);
  for (const client of held.store.clients())
    for (const [name, vector] of Object.entries(held.store.get(client)))
      tensors[nameOf.client(client, name)] = float32(vector, [vector.length]);
  const file = 'server.safetensors';
  const { sha256 } = await writeSafetensors(join(dir, file), tensors);
  return [{ file, sha256, tensors: Object.keys(tensors) }];
}

async function summarise(
  { prepared }: Execution,
  simulation: RoundSimulation,
  known: {
    readonly log: MetricsLog;
    readonly wall: number;
    readonly evaluation: { readonly loss: number; readonly accuracy: number | null } | null;
    readonly saved: { readonly path: string } | null;
  },
): Promise<RunSummary> {
  if (known.saved === null) throw new Error('the strategy ended without a checkpoint of the last round');
  const reader = await CheckpointReader.open(known.saved.path, await verifyCheckpoint(known.saved.path));
  try {
    const accuracy = known.evaluation?.accuracy ?? null;
    return {
      steps: simulation.round,
      loss: known.log.losses[simulation.round - 1] as number,
      val_loss: known.evaluation?.loss ?? null,
      ...(accuracy === null ? {} : { accuracy }),
      baselines: {},
      wall_s: Math.round(known.wall * 1000) / 1000,
      tokens_per_s: 0,
      weights_sha256: await reader.weightsSha256(),
      losses_sha256: known.log.sha256(),
      samples_seen: simulation.round * prepared.config.batch.global,
      recoveries: 0,
    };
  } finally {
    await reader.close();
  }
}
