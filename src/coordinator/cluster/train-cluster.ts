import { existsSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { connectNats } from '../../comm/index.ts';
import { clusterKeys } from '../../worker/index.ts';
import { type Override, type ResolvedConfig, resolveConfig } from '../config/index.ts';
import type { RunEvent } from '../events.ts';
import type { Execution } from '../execution.ts';
import { checkEvaluation, prepareRun } from '../prepare.ts';
import {
  fetchRun,
  findOrFetchRun,
  findRunFolder,
  folderStore,
  lockRun,
  type MetricsLine,
  openStore,
  type RunFolder,
  readMetrics,
  readModelFile,
  readSummary,
  runFolderAt,
} from '../run/index.ts';
import { schedulerNamed } from '../scheduler.ts';
import { type ConfigInput, trainNew, trainOn, withControl } from '../train.ts';
import { newestUpTo } from './checkpoint-source.ts';
import {
  type Inheritance,
  type JobEntry,
  type PositionEntry,
  runOnAgents,
  sameRun,
  type WorkerLimits,
} from './cluster-run.ts';
import { ClusterError } from './errors.ts';
import { type JobPlace, type Lead, takeLead } from './lead.ts';
import { logged } from './logged.ts';
import { runOnClients } from './run-on-clients.ts';
import { SideEvents } from './side-events.ts';

/** Options of a run on agents. */
export interface ClusterOptions extends Omit<JobPlace, 'nats'> {
  /** The NATS server and how to log in. Default: the config's `comm.nats.url`. */
  readonly nats?: Parameters<typeof connectNats>[0];
  /** Workers (slots of agents) that the run needs. Default: all of the mesh to begin with, one to go on. */
  readonly minWorkers?: number;
  /** Workers that it uses at most. Default: as many as the mesh has ranks. */
  readonly maxWorkers?: number;
  /** Federated runs: clients to wait for before the first round. Default: the cohort of a round. */
  readonly minClients?: number;
  /** Wait while another coordinator leads the job, and take over when it is gone. */
  readonly standby?: boolean;
  /** `a.b=c` overrides of the config. */
  readonly overrides?: readonly string[];
  /** Raise it to stop: the step is finished, a checkpoint written, the agents become spare. */
  readonly signal?: AbortSignal;
}

/**
 * Trains on the agents of a job (`plexus worker`), as `train` does on threads of this process: same bits, same run folder,
 * on this machine's disk. If the job has an unfinished run whose coordinator is gone, that run is taken over, provided that
 * the config is the same and the run folder is on this disk.
 * @throws what `train` throws; LeaderTaken if another coordinator leads the job; LeaderLost if another takes it; ClusterError
 * if workers, server or folder are missing
 */
export async function* trainCluster(source: ConfigInput, options: ClusterOptions): AsyncGenerator<RunEvent, void> {
  const began = performance.now();
  const config = withControl(resolveConfig(source, options.overrides), 'nats');
  yield* leading(config, options, async function* (lead, waited) {
    const limits = limitsOf(options);
    const job = (await lead.records.get<JobEntry>(clusterKeys.job))?.value;
    if (job?.status === 'running' || job?.status === 'waiting') {
      const folder = await folderOf(job, lead, config);
      yield* takeOver(lead, job, folder, config, limits, began);
    } else if (waited && job?.status === 'completed') yield await alreadyFinished(job, config);
    else
      yield* trainNew(config, {
        began,
        signal: lead.stopping,
        run: (execution) => runRemotely(lead, execution, options),
      });
  });
}

/**
 * Continues a run from its newest whole checkpoint on the agents of a job, as `resume` does on threads. A run that is not
 * on this machine is fetched from where its checkpoints are kept on NATS (`run.store: nats`).
 */
export async function* resumeCluster(
  run: string,
  change: readonly (string | Override)[] | ConfigInput,
  options: ClusterOptions & { readonly step?: number },
): AsyncGenerator<RunEvent, void> {
  const { step, overrides = [], nats } = options;
  const from = { ...(options.job === undefined ? {} : { job: options.job }), ...(step === undefined ? {} : { step }) };
  const found = nats ? await findOrFetchRun(run, { nats, ...from }) : { ...(await findRunFolder(run)), warnings: [] };
  for (const message of found.warnings) yield { type: 'warning', message };
  const { path } = found;
  const stored = resolveConfig(Array.isArray(change) ? runFolderAt(path).config : (change as ConfigInput));
  yield* leading(withControl(stored, 'nats'), options, (lead) =>
    trainOn(path, change, {
      overrides,
      signal: lead.stopping,
      ...(step === undefined ? {} : { step }),
      control: 'nats',
      run: (execution) => runRemotely(lead, execution, options),
    }),
  );
}

/** Runs on agents, or where the strategy asks clients rather than ranks, with clients. */
function runRemotely(lead: Lead, execution: Execution, options: ClusterOptions): AsyncGenerator<RunEvent, void> {
  const { alone } = schedulerNamed(execution.prepared.config.scheduler.name);
  if (alone) return runOnClients(lead, execution, options.minClients ?? null);
  return runOnAgents(lead, execution, limitsOf(options), null);
}

/** Comes to lead the job, does something, and lets the next one in. */
async function* leading(
  config: ResolvedConfig,
  options: ClusterOptions,
  body: (lead: Lead, waited: boolean) => AsyncGenerator<RunEvent, void>,
): AsyncGenerator<RunEvent, void> {
  const { comm } = config;
  const nats = options.nats ?? (comm.nats.url === null ? null : { servers: comm.nats.url });
  if (!nats)
    throw config.origin.fail([
      { path: ['comm', 'nats', 'url'], message: 'no NATS server is named: give --nats URL, or set comm.nats.url' },
    ]);
  const side = new SideEvents();
  const taking = takeLead({
    nats,
    ...(options.job === undefined ? {} : { job: options.job }),
    leaseMs: comm.lease_s * 1000,
    deadlineMs: comm.deadline_s * 1000,
    standby: options.standby ?? false,
    signal: options.signal,
    emit: (event) => side.push(event),
  });
  let lead: Lead | null = null;
  taking.catch(() => undefined);
  while (!lead) {
    lead = (await Promise.race([taking, side.some()])) ?? null;
    yield* side.take();
  }
  try {
    yield* logged(lead, body(lead, lead.lock.tookOver));
  } finally {
    await lead.end();
  }
}

/** Goes on with a run whose coordinator is gone, with all that its workers have in memory. */
async function* takeOver(
  lead: Lead,
  job: JobEntry,
  folder: RunFolder,
  given: ResolvedConfig,
  limits: WorkerLimits,
  began: number,
): AsyncGenerator<RunEvent, void> {
  const stored = resolveConfig(folder.config);
  // (It names every key; of settings without effect the run was warned when it began.)
  const config = withControl({ ...stored, origin: { ...stored.origin, given: new Set() } }, 'nats');
  if (!sameRun(config, given))
    throw new ClusterError(
      `job '${lead.job}' has an unfinished run, ${folder.path}, of another config: end it with plexus stop --job ${lead.job}, ` +
        'or give this run another --job',
    );
  yield {
    type: 'warning',
    message: `taking over the run ${job.runId} of job '${lead.job}', whose coordinator is gone`,
  };
  // The job's lock is the one that counts: whoever held the folder does not lead any more.
  await rm(join(folder.path, '.lock'), { force: true });
  const unlock = await lockRun(folder.path);
  try {
    const lines = wholeLines(await readMetrics(folder.metrics).catch(() => []));
    const place = { connection: lead.records.connection, job: lead.job };
    const { store, close } = await openStore(config, folder, place);
    const from = await newestUpTo(store, lines.length).finally(close);
    const model = await readModelFile(folder);
    const prepared = yield* prepareRun(config, { runDir: folder.path, model });
    checkEvaluation(prepared);
    const position = (await lead.records.get<PositionEntry>(clusterKeys.position))?.value;
    const inherited: Inheritance = {
      firstGeneration: job.firstGeneration,
      lines,
      wall: position?.wall_s ?? from?.index.wall_s ?? 0,
      recoveries: position?.recoveries ?? from?.index.recoveries ?? 0,
    };
    const execution = { prepared, folder, model, began, signal: lead.stopping, from };
    yield* runOnAgents(lead, execution, limits, inherited);
  } finally {
    await unlock();
  }
}

/** The folder of a job's run. @throws ClusterError if it is not on this disk */
async function folderOf(job: JobEntry, lead: Lead, { run }: ResolvedConfig): Promise<RunFolder> {
  const folder = runFolderAt(job.runDir);
  if (run.store === 'nats' && !existsSync(folder.config)) {
    const { path } = await fetchRun({
      connection: lead.records.connection,
      job: lead.job,
      run: job.runId,
      dir: run.dir,
    });
    return runFolderAt(path);
  }
  await readFile(folder.config).catch((error: Error) => {
    throw new ClusterError(
      `job '${lead.job}' has an unfinished run, ${job.runId}, whose folder ${job.runDir} is not on this machine (${error.message}): ` +
        `start the coordinator on the machine that has it, or end the run with plexus stop --job ${lead.job}`,
      { cause: error },
    );
  });
  return folder;
}

/** Lines of steps 1, 2, ... without a gap. */
function wholeLines(lines: readonly MetricsLine[]): MetricsLine[] {
  const byStep = new Map(lines.map((line) => [line.step, line]));
  const whole: MetricsLine[] = [];
  for (let line = byStep.get(1); line; line = byStep.get(line.step + 1)) whole.push(line);
  return whole;
}

/** The run that a standby has waited for is done: it says so in its place. */
async function alreadyFinished(job: JobEntry, config: ResolvedConfig): Promise<RunEvent> {
  const folder = runFolderAt(job.runDir);
  const summary = await readSummary(folder.summary).catch((error: Error) => {
    throw new ClusterError(
      `the run ${job.runId} was completed by another coordinator, in ${job.runDir}: ${error.message}`,
      {
        cause: error,
      },
    );
  });
  const newest = await newestUpTo(folderStore(folder.checkpoints), config.train.steps);
  return {
    type: 'finished',
    status: 'completed',
    runId: folder.id,
    dir: folder.path,
    step: summary.steps,
    summary,
    checkpoint: newest?.path ?? null,
  };
}

function limitsOf({ minWorkers, maxWorkers }: ClusterOptions): WorkerLimits {
  if (minWorkers !== undefined && maxWorkers !== undefined && minWorkers > maxWorkers)
    throw new ClusterError(`--min-workers ${minWorkers} is more than --max-workers ${maxWorkers}`);
  return { minWorkers: minWorkers ?? null, maxWorkers: maxWorkers ?? null };
}
