import { compressTransport, type Transport } from '../comm/index.ts';
import { type Dataset, openDataset, type SplitName } from '../data/index.ts';
import { createEngine, type DeviceTensor, type Engine } from '../engine/index.ts';
import { buildModel, type Model, type ResolvedModel } from '../modules/index.ts';
import { buildOptimizer, type OptimConfig, type OptimizerPlan, type StepPhase } from '../optim/index.ts';
import { averagedMicrobatches } from '../plan/index.ts';
import { bytesPerElement, type HostTensor, scalar } from '../tensor/index.ts';
import type { CompileCache } from './compile-cache.ts';
import { type HeldTensor, heldTensors } from './held-tensors.ts';
import { JobRank } from './job-rank.ts';
import { type ParamGroup, updatedHere } from './param-group.ts';
import type { RankParts } from './program-run.ts';
import type {
  ChosenExamples,
  FailureReport,
  LeafValues,
  ShardReport,
  StepReport,
  WorkerEvent,
  WorkerJob,
} from './protocol.ts';
import { buildRankModel } from './rank-model.ts';
import type { SnapshotShare, SnapshotTaken } from './snapshot-layout.ts';
import { TensorSpace } from './tensor-space.ts';
import { type TrainingObjective, type TransitionAnswers, trainingObjective } from './training-objective.ts';
import { type InitialSource, initialiseGroups, loadHeld, openCheckpoint } from './weights.ts';

/** Things that a rank otherwise makes from its job; tests and in-process runs give or share them. */
export interface RankOverrides {
  /** Shared engines save compilations; a shared engine is not disposed with the rank. */
  readonly engine?: Engine;
  readonly model?: Model;
  readonly optimizer?: OptimizerPlan;
  /** What was compiled before of this very model and optimizer on this engine. */
  readonly compiled?: CompileCache;
  readonly dataset?: Dataset;
  /** Where the tensors come from, in place of the seed or the job's checkpoint. */
  readonly initial?: InitialSource | undefined;
  /** Snapshots that there is memory for; 1 is enough where they are taken one by one. Default `SNAPSHOT_SLOTS`. */
  readonly snapshotSlots?: number | undefined;
}

/** What a rank leaves in its thread. */
export interface HeldState {
  /** Completed steps; null where it is not sure that all is as it was then. */
  readonly step: number | null;
  /** By name; none where a step was given up that had begun to change them. */
  readonly tensors: ReadonlyMap<string, DeviceTensor>;
}

/** What a rank says when it is ready. */
export type ReadyReport = Omit<Extract<WorkerEvent, { type: 'ready' }>, 'type'>;

/** One rank of a job: its share of the model, and the interpreter of its programs. Any number can live in one thread. */
export interface Rank {
  readonly rank: number;
  readonly ready: ReadyReport;
  /** Runs a training step. */
  step(step: number): Promise<StepReport>;
  /** Runs that step and, where several can be run as one, further ones before `until`; a report of each. */
  steps(step: number, until: number): Promise<StepReport[]>;
  /** Runs forward over a split, or over just some of its examples; values (all, or of some metrics) of the microbatches that this rank saw. */
  evaluate(
    split: SplitName,
    maxMicrobatches: number | null,
    chosen?: ChosenExamples,
  ): Promise<Readonly<Record<string, LeafValues>>>;
  /** Changes parameters and slots by a transition of the job's objective. @throws Error if it has none of that name */
  transition(name: string, args: unknown): Promise<TransitionAnswers>;
  /** Writes this rank's shard into a folder that exists. */
  checkpoint(folder: string): Promise<ShardReport[]>;
  /**
   * Copies all that lasts from step to step into memory that other threads can read (`snapshots`), as it is after `step`
   * completed steps. Null if no memory is free: then the ones before have to do.
   */
  snapshot(step: number): Promise<SnapshotTaken | null>;
  /** Digests of the parameters and state in a copy that was just taken, by name; null if no other rank holds any of it. */
  digests(taken: SnapshotTaken): Readonly<Record<string, string>> | null;
  /** Where the snapshots are, for a `SnapshotShelf` in another thread. Memory is reserved at the first call. */
  snapshots(): SnapshotShare;
  /** What it holds from step to step. */
  held(): HeldState;
  /** Parameters held here, by path, read back to the host (fresh copies). */
  parameters(): Promise<Record<string, HostTensor>>;
  /** Describes a failure of one of the calls above. */
  failure(error: unknown): FailureReport;
  /** Recorded instructions, if the job asked for a trace; else an empty list. */
  traceEvents(): readonly unknown[];
  dispose(): Promise<void>;
}

/**
 * Builds a rank: model, parameters (from the seed or the job's checkpoint), compiled layers. Ranks of one thread must be
 * created one after another, since tracing is not re-entrant; their steps may interleave.
 */
export async function createRank(job: WorkerJob, transport: Transport, overrides: RankOverrides = {}): Promise<Rank> {
  const started = performance.now();
  const dataset = overrides.dataset ?? openDataset(job.data);
  const objective = job.objective ? trainingObjective(job.objective) : null;
  const model = overrides.model ?? (await modelOf(job, dataset, objective));
  const optimizer = overrides.optimizer ?? optimizerOf(job, objective);
  const engine = overrides.engine ?? (await createEngine(job.engine));
  const before = engine.compileStatistics();
  // A trace is to show what each instruction takes.
  const space = new TensorSpace(engine, !job.trace);
  const { compiled } = overrides;
  const { optimizer: own } = optimizer;
  const built = await buildRankModel({ job, model, info: dataset.info, optimizer: own, engine, space, compiled });
  const held = heldTensors(built.groups, job.train);
  const filling = performance.now();
  const first = await fill(engine, built.groups, held, job, overrides.initial ?? null);
  const restore = performance.now() - filling;
  await warmUp(built.groups, built.updates, optimizer.clipNorm !== null, own.phaseAt?.(first + 1));
  const parts: RankParts = {
    job,
    transport: job.compression ? compressTransport(transport, job.compression) : transport,
    space,
    model: built,
    optimizer,
    layerCount: model.layers.length,
    objectiveSeed: space.borrow(engine.upload(scalar(Math.fround(1 / averagedMicrobatches(job.train))))),
    peerPaths: new Map(),
  };
  const after = engine.compileStatistics();
  // An engine that served a rank before has what that one compiled: only what this start had to compile is its own.
  const compile = {
    executables: after.executables - before.executables,
    cacheHits: after.cacheHits - before.cacheHits,
    totalMs: performance.now() - started,
  };
  const phases = { start: 0, compile: compile.totalMs - restore, restore };
  const ready: ReadyReport = { engineVersion: engine.version, compile, step: first, phases, ...sizesOf(built.groups) };
  return new JobRank(parts, held, dataset, model, ready, objective, overrides);
}

/** The model of a job, as its objective has it. */
export async function modelOf(job: WorkerJob, dataset: Dataset, objective: TrainingObjective | null): Promise<Model> {
  const { model } = await buildModel(job.model as ResolvedModel, dataset.modelInfo ?? dataset.info);
  return objective?.model?.(model, dataset) ?? model;
}

/** The optimizer of a job, as its objective has it. */
export function optimizerOf(job: WorkerJob, objective: TrainingObjective | null): OptimizerPlan {
  const plan = buildOptimizer(job.optim as OptimConfig, { totalSteps: job.totalSteps });
  return objective?.optimizer?.(plan) ?? plan;
}

/** Gives all tensors their first values. Returns the completed steps that these are of. */
async function fill(
  engine: Engine,
  groups: readonly ParamGroup[],
  held: readonly HeldTensor[],
  job: WorkerJob,
  initial: InitialSource | null,
): Promise<number> {
  if (initial) {
    await loadHeld(engine, held, initial);
    return initial.step;
  }
  if (job.checkpoint === null) {
    initialiseGroups(engine, groups, job.seed);
    return 0;
  }
  const checkpoint = await openCheckpoint(job.checkpoint);
  try {
    await loadHeld(engine, held, checkpoint);
  } finally {
    await checkpoint.close();
  }
  return checkpoint.step;
}

/** Compiles what the first step would otherwise compile between its instructions. */
async function warmUp(
  groups: readonly ParamGroup[],
  updates: RankParts['model']['updates'],
  clip: boolean,
  phase: StepPhase | undefined,
): Promise<void> {
  for (const group of groups) {
    const updated = updatedHere(group);
    if (updated.length === 0) continue;
    const gradients = group.gradientOf
      .filter((i) => updated.includes(i))
      .map((i) => ({ dtype: 'float32' as const, shape: group.params[i]?.spec.shape ?? [] }));
    const params = updated.map((i) => group.params[i] as ParamGroup['params'][number]);
    await updates.update(params, clip, phase);
    if (gradients.length > 0) await updates.squaredNorms(gradients);
  }
}

function sizesOf(groups: readonly ParamGroup[]) {
  const size = (shape: readonly number[]) => shape.reduce((product, dim) => product * dim, bytesPerElement('float32'));
  const params = groups.flatMap((group) => group.params);
  return {
    paramBytes: params.reduce((sum, { spec }) => sum + size(spec.shape), 0),
    optimizerBytes: params.reduce(
      (sum, { spec, slotNames, keepsSlots }) => sum + (keepsSlots === false ? 0 : slotNames.length * size(spec.shape)),
      0,
    ),
    params: params.map(({ path }) => path),
  };
}
