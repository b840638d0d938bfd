import { compresses } from '../../comm/index.ts';
import { clusterKeys, type JobRecord, PLEXUS_VERSION, type PositionRecord } from '../../worker/index.ts';
import { type Config, formatConfig } from '../config/index.ts';
import type { RunEvent } from '../events.ts';
import { execute } from '../execute.ts';
import type { Execution, Launched } from '../execution.ts';
import { type MetricsLine, openStore } from '../run/index.ts';
import { Blobs } from './blobs.ts';
import { type CheckpointSource, newestUpTo, openCheckpointSource } from './checkpoint-source.ts';
import { SourceGone } from './errors.ts';
import type { Lead } from './lead.ts';
import { MeshPlans } from './mesh-plans.ts';
import { RemoteWorkers } from './remote-workers.ts';
import { interleave, SideEvents } from './side-events.ts';
import { writeShards } from './snapshot-writer.ts';
import { Supervisor } from './supervisor.ts';

/** The job's record as coordinators write it. */
export interface JobEntry extends JobRecord {
  /** Snapshots of earlier generations are of another run. */
  readonly firstGeneration: number;
}

/** The position as coordinators write it: what a successor cannot find in the run folder is in it too. */
export interface PositionEntry extends PositionRecord {
  readonly wall_s: number;
  readonly recoveries: number;
}

/** How many workers a run takes. */
export interface WorkerLimits {
  readonly minWorkers: number | null;
  readonly maxWorkers: number | null;
}

/** What a coordinator finds of a run that another has begun. */
export interface Inheritance {
  readonly firstGeneration: number;
  /** Lines of metrics.jsonl: steps that are known to be complete. */
  readonly lines: readonly MetricsLine[];
  readonly wall: number;
  readonly recoveries: number;
}

/** Records of the position are not put more often than this, in milliseconds. */
const POSITION_MS = 300;

/** Runs what has been prepared on the agents of a job, and keeps its records. */
export async function* runOnAgents(
  lead: Lead,
  execution: Execution,
  limits: WorkerLimits,
  inherited: Inheritance | null,
): AsyncGenerator<RunEvent, void> {
  const side = new SideEvents();
  const { records } = lead;
  const { config } = execution.prepared;
  let supervisor: Supervisor | null = null;
  let job: JobEntry | null = null;
  let position: PositionEntry = {
    step: execution.from?.index.step ?? 0,
    steps: config.train.steps,
    loss: null,
    checkpoint: execution.from?.index.step ?? null,
    generation: 0,
    wall_s: inherited?.wall ?? 0,
    recoveries: inherited?.recoveries ?? 0,
  };
  const status = async (to: JobRecord['status']): Promise<void> => {
    if (!job) return;
    job = { ...job, status: to };
    await records.put(clusterKeys.job, job);
  };
  const launch = async (of: Execution, signal: AbortSignal): Promise<Launched> => {
    const launching = await launchOn(lead, of, limits, inherited, side);
    supervisor = launching.supervisor;
    job = {
      job: lead.job,
      runId: of.folder.id,
      runDir: of.folder.path,
      version: PLEXUS_VERSION,
      config: formatConfig(of.prepared.config),
      status: 'waiting',
      minWorkers: limits.minWorkers ?? 0,
      maxWorkers: limits.maxWorkers ?? 0,
      firstGeneration: supervisor.firstGeneration,
    };
    await records.put(clusterKeys.job, job);
    try {
      const launched = await launching.start(signal);
      await status('running');
      return launched;
    } catch (error) {
      await launching.workers.terminate();
      throw error;
    }
  };
  const stop = async (): Promise<void> => supervisor?.stop('the run was ended');
  let putAt = 0;
  let putting = false;
  // Nobody waits for it: a server that is away must not hold back the steps.
  const putPosition = (now: boolean): void => {
    if (putting || (!now && performance.now() - putAt < POSITION_MS)) return;
    putAt = performance.now();
    putting = true;
    records
      .put(clusterKeys.position, position)
      .catch((error: Error) => warn(error))
      .finally(() => {
        putting = false;
      });
  };
  const warn = ({ message }: Error): void => {
    if (!lead.signal.aborted) side.push({ type: 'warning', message });
  };
  const began = performance.now();
  try {
    for await (const event of interleave(
      execute({ ...execution, launch, nats: { connection: records.connection, job: lead.job } }),
      side,
      stop,
    )) {
      if (event.type === 'generation') position = { ...position, generation: event.generation };
      if (event.type === 'step') position = { ...position, step: event.step, loss: event.loss };
      if (event.type === 'checkpointed') position = { ...position, checkpoint: event.step };
      if (event.type === 'step' || event.type === 'checkpointed') {
        const { recoveries } = supervisor as unknown as Supervisor;
        const past = { wall: inherited?.wall ?? 0, recoveries: inherited?.recoveries ?? 0 };
        const wall_s = past.wall + (performance.now() - began) / 1000;
        position = { ...position, wall_s, recoveries: past.recoveries + recoveries };
        putPosition(event.type === 'checkpointed');
      }
      if (event.type === 'finished') {
        try {
          await records.put(clusterKeys.position, position);
          await status(event.status);
        } catch (error) {
          // The run itself is done, and its folder says so.
          yield { type: 'warning', message: (error as Error).message };
        }
      }
      yield event;
    }
  } catch (error) {
    if ((error as Error).name !== 'LeaderLost') await status('failed').catch(() => undefined);
    throw error;
  }
}

/** Puts together what drives the agents of a run. */
async function launchOn(
  lead: Lead,
  execution: Execution,
  limits: WorkerLimits,
  inherited: Inheritance | null,
  side: SideEvents,
) {
  const { prepared, folder, from } = execution;
  const { config, plan } = prepared;
  const { records, lock } = lead;
  const deadlineMs = config.comm.deadline_s * 1000;
  const plans = await MeshPlans.of(prepared, folder.id, execution.model);
  const opened = await openStore(config, folder, { connection: records.connection, job: lead.job });
  const blobs = new Blobs(records.connection, records.job, deadlineMs, lead.signal);
  let source: CheckpointSource | null = null;
  const background = {
    // What is lost in transit depends on who sends it to whom.
    exact: config.numerics === 'exact' && !compresses(config.comm.compression),
    microbatches: plan.batch.microbatches,
    step: inherited ? inherited.lines.length : (from?.index.step ?? 0),
    past: inherited?.lines.map(({ loss, grad_norm }) => ({ loss, gradNorm: Number(grad_norm) })) ?? [],
    confirm: () => lock.confirm(),
    writeShards: (dir: string, snapshots: Parameters<typeof writeShards>[1]) =>
      writeShards(dir, snapshots, supervisor.formed?.plan.mesh ?? plan.mesh, async (...range) => {
        const [first] = snapshots;
        // With its generation a snapshot is let go of.
        if (first?.snapshot.generation !== supervisor.generation) throw new SourceGone('the generation has ended');
        return blobs.fetch(...range);
      }),
    free: (snapshots: Parameters<typeof writeShards>[1]) => {
      for (const { agent, rank, snapshot } of snapshots)
        supervisor.agents
          .ask(
            agent,
            supervisor.generation,
            { type: 'command', rank, command: { type: 'free', blob: snapshot.blob } },
            5000,
          )
          // An agent that is gone, or has begun another generation, has let go of it.
          .catch(() => undefined);
    },
    quiet: () => supervisor.quiet(),
    progress: (completed: number) => supervisor.progress(completed),
    terminate: async () => {
      await supervisor.stop('the run has ended');
      await blobs.close();
      await opened.close();
      await source?.close();
      source = null;
    },
  };
  const workers = new RemoteWorkers(background);
  const last = await lead.lastGeneration();
  const supervisor: Supervisor = new Supervisor(
    {
      records,
      lock,
      plans,
      tools: {
        links: config.comm.data,
        snapshotEvery: config.recovery.snapshot_every,
        replicas: config.recovery.replicas,
        useSecret: (secret) => blobs.useSecret(secret),
        checkpoint: async (limit) => {
          const newest = await newestUpTo(opened.store, limit);
          if (!newest) return null;
          if (source?.path !== newest.path) {
            await source?.close();
            source = await openCheckpointSource(newest);
          }
          blobs.offer(source);
          return source.held;
        },
      },
      last,
      firstGeneration: inherited?.firstGeneration ?? null,
      minWorkers: limits.minWorkers,
      maxWorkers: limits.maxWorkers,
      started: inherited !== null && inherited.lines.length > 0,
      deadlineMs,
      waitMs: config.recovery.wait_s * 1000,
      exact: background.exact,
      maxRecoveries: config.recovery.max_recoveries,
      emit: (event) => side.push(event),
    },
    workers,
  );
  const start = async (signal: AbortSignal): Promise<Launched> => {
    const { ready, formed } = await supervisor.start(signal);
    return {
      workers,
      ready,
      step: formed.fromStep,
      mesh: () => supervisor.formed?.plan.mesh ?? formed.plan.mesh,
      recoveries: () => supervisor.recoveries,
      ...(inherited ? { before: { wall: inherited.wall, recoveries: inherited.recoveries } } : {}),
    };
  };
  return { supervisor, workers, start };
}

/** Whether two configs describe the same run: where results go and how the server is reached does not matter. */
export function sameRun(a: Config & { origin?: unknown }, b: Config & { origin?: unknown }): boolean {
  const essence = ({ origin: _, run: _run, comm: _comm, ...rest }: Config & { origin?: unknown }) =>
    JSON.stringify(rest);
  return essence(a) === essence(b);
}
