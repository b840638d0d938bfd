import { resolve } from 'node:path';
import { balance, manualStages } from './balance.ts';
import { type BatchOptions, type BatchPlan, batchPlan } from './batch.ts';
import { checkMesh } from './check-mesh.ts';
import { aboutKey, PlanError } from './errors.ts';
import { layerFlops } from './layer-cost.ts';
import { type LoweringInput, lowerEvaluation, lowerTraining, type StageContents } from './lower.ts';
import { type MeshShape, worldSize } from './mesh.ts';
import type { Program, Stage } from './program.ts';
import { generateSchedule, type Schedule } from './schedule.ts';
import { readSchedule } from './schedule-table.ts';
import type { ParallelOptions, ScheduleName } from './schema.ts';
import { makeStages } from './segments.ts';
import type { ModelSummary } from './summary.ts';
import { VerificationError, type VerifyResult, verifyPrograms } from './verify.ts';

/** What a plan is made of. */
export interface PlanInput {
  readonly summary: ModelSummary;
  readonly parallel: ParallelOptions;
  readonly batch: BatchOptions;
  /** What `parallel.zero: auto` means here. Default 1. */
  readonly zero?: 0 | 1;
  /** Folder that `schedule.file` is relative to. Default: the working directory. */
  readonly baseDir?: string;
}

/** A verified plan: who holds what, and what every rank executes. */
export interface Plan {
  readonly summary: ModelSummary;
  readonly mesh: MeshShape;
  readonly batch: BatchPlan;
  /** 1 where optimizer state is sharded over the data axis, else 0. */
  readonly zero: 0 | 1;
  /** All stages of the model. */
  readonly stages: readonly Stage[];
  /** The schedule of the first data rank. */
  readonly schedule: Schedule;
  /** Training programs, by rank. */
  readonly programs: readonly Program[];
  /** Forward-only programs of one round of evaluation, by rank. */
  readonly evaluate: readonly Program[];
  /** What the verifier found out; `credit` must not exceed a transport's window. */
  readonly verified: { readonly train: VerifyResult; readonly evaluate: VerifyResult };
  /** Settings that have no effect in this plan. */
  readonly warnings: readonly string[];
}

/**
 * Compiles model, mesh, batch and schedule into one program per rank, and verifies them.
 * @throws PlanError if a constraint does not hold, or the programs (of a schedule table, say) could hang
 */
export function compilePlan(input: PlanInput): Plan {
  const { summary, parallel } = input;
  const zero = parallel.zero === 'auto' ? (input.zero ?? 1) : parallel.zero;
  const mesh: MeshShape = { data: parallel.data, pipeline: parallel.pipeline, expert: parallel.expert };
  const { name, chunks, table, warnings } = chooseSchedule(input, mesh);
  checkMesh(mesh, summary, chunks);
  if (table) aboutKey('parallel.schedule', () => checkTable(table, mesh, summary));
  const batch = batchPlan(input.batch, mesh);
  const schedules = new Map<number, Schedule>();
  const schedule = (microbatches: number): Schedule => {
    if (table) return aboutKey('parallel.schedule', () => forShare(table, microbatches));
    const known = schedules.get(microbatches) ?? generateSchedule(name, mesh.pipeline, microbatches, chunks);
    schedules.set(microbatches, known);
    return known;
  };
  const first = schedule(count(batch, 0));
  const stages = makeStages(summary, cut(input, first.stageRanks.length), first.stageRanks, mesh.expert > 1);
  const training: LoweringInput = {
    mesh,
    stages,
    contents: stages.map((stage) => contentsOf(summary, mesh, stage)),
    zero,
    microbatches: batch.microbatches,
    shares: batch.shares,
    schedule,
  };
  // Ranks with several stages need several microbatches a round to have something to do in between.
  const each = stages.length > mesh.pipeline ? mesh.pipeline : 1;
  const evaluation: LoweringInput = {
    ...training,
    microbatches: each * mesh.data,
    shares: batch.shares.map((_, data) => ({ start: data * each, end: (data + 1) * each })),
  };
  const ranks = Array.from({ length: worldSize(mesh) }, (_, rank) => rank);
  const programs = ranks.map((rank) => lowerTraining(training, rank));
  const evaluate = ranks.map((rank) => lowerEvaluation(evaluation, rank));
  const verified = verify(programs, evaluate, table);
  return { summary, mesh, batch, zero, stages, schedule: first, programs, evaluate, verified, warnings };
}

/** Verifies both programs; where they come from a table, it is the table that is wrong. */
function verify(train: readonly Program[], evaluate: readonly Program[], table: Schedule | null): Plan['verified'] {
  try {
    return { train: verifyPrograms(train), evaluate: verifyPrograms(evaluate) };
  } catch (error) {
    if (!table || !(error instanceof VerificationError)) throw error;
    throw new PlanError(
      `the schedule table "${table.name}" cannot be run; change the order of its cells: ${error.message}`,
      { key: 'parallel.schedule', cause: error },
    );
  }
}

function count(batch: BatchPlan, data: number): number {
  const share = batch.shares[data];
  return share ? share.end - share.start : 0;
}

/** The schedule that takes effect, and warnings about settings that do not. */
function chooseSchedule(input: PlanInput, mesh: MeshShape) {
  const { parallel, summary } = input;
  const warnings: string[] = [];
  if (mesh.expert > 1 && summary.layers.every((layer) => layer.expertCalls.length === 0))
    warnings.push(`parallel.expert ${mesh.expert} has no effect: the model has no experts`);
  if (typeof parallel.schedule !== 'string') {
    const path = resolve(input.baseDir ?? '.', parallel.schedule.file);
    const table = aboutKey('parallel.schedule', () => readSchedule(path));
    if (parallel.chunks !== null)
      warnings.push(
        `parallel.chunks ${parallel.chunks} has no effect: the schedule table says which stages a rank holds`,
      );
    return { name: '1f1b' as const, chunks: 1, table, warnings };
  }
  let name: ScheduleName = parallel.schedule;
  let chunks = parallel.chunks ?? (name === 'interleaved-1f1b' ? 2 : 1);
  if (mesh.pipeline === 1) {
    if (name !== '1f1b')
      warnings.push(`parallel.schedule ${name} has no effect: with parallel.pipeline 1 there is nothing to overlap`);
    if ((parallel.chunks ?? 1) > 1)
      warnings.push(`parallel.chunks ${parallel.chunks} has no effect: parallel.pipeline is 1`);
    if (parallel.stages !== 'auto' && parallel.stages.length > 1)
      throw new PlanError(
        `parallel.stages has ${parallel.stages.length} entries, but with parallel.pipeline 1 there is one stage: set parallel.pipeline to ${parallel.stages.length}, or stages to auto`,
        { key: 'parallel.stages' },
      );
    name = '1f1b';
    chunks = 1;
  } else if (name !== 'interleaved-1f1b' && chunks > 1) {
    warnings.push(
      `parallel.chunks ${chunks} has no effect: the schedule ${name} has one stage for each rank (interleaved-1f1b has several)`,
    );
    chunks = 1;
  } else if (name === 'interleaved-1f1b' && chunks === 1) {
    warnings.push('parallel.schedule interleaved-1f1b with parallel.chunks 1 is the same as 1f1b');
  }
  return { name, chunks, table: null, warnings };
}

function checkTable(table: Schedule, mesh: MeshShape, summary: ModelSummary): void {
  if (table.ranks.length !== mesh.pipeline)
    throw new PlanError(
      `the schedule table "${table.name}" has ${table.ranks.length} rows, but parallel.pipeline is ${mesh.pipeline}: a table has one row for each pipeline rank`,
    );
  if (table.stageRanks.length > summary.layers.length)
    throw new PlanError(
      `the schedule table "${table.name}" has ${table.stageRanks.length} stages, but the model has ${summary.layers.length} layers: every stage needs a layer`,
    );
}

function forShare(table: Schedule, microbatches: number): Schedule {
  if (table.microbatches === microbatches) return table;
  throw new PlanError(
    `the schedule table "${table.name}" is for ${table.microbatches} microbatches, but a data rank has ${microbatches}: change batch or parallel.data so that each data rank has ${table.microbatches}`,
  );
}

function cut({ summary, parallel }: PlanInput, stages: number): number[][] {
  const { stages: entries } = parallel;
  if (entries !== 'auto') {
    const names = summary.layers.map((layer) => layer.name);
    return aboutKey('parallel.stages', () => manualStages(names, entries, stages));
  }
  const costs = summary.layers.map((layer) => {
    const { forward, backward } = layerFlops(layer);
    return forward + backward;
  });
  return balance(costs, stages);
}

/**
 * Bytes of gradients from which on a bucket is full. Small enough that most of a large model is on its way before the
 * backward ends, large enough that the cost of messages does not show.
 */
const BUCKET_BYTES = 8 * 2 ** 20;

function contentsOf(summary: ModelSummary, mesh: MeshShape, stage: Stage): StageContents {
  const bytesOf = (params: readonly { readonly bytes: number }[]) => params.reduce((sum, { bytes }) => sum + bytes, 0);
  return {
    dense: buckets(stage, (index) => {
      const layer = summary.layers[index];
      return layer ? bytesOf(layer.params) + layer.stateBytes : 0;
    }),
    experts: buckets(stage, (index) => {
      const calls = summary.layers[index]?.expertCalls ?? [];
      return bytesOf(calls.flatMap((call) => call.experts.flat())) / mesh.expert;
    }),
  };
}

/** Layers of a stage that have any bytes, the last ones first, in buckets; the layers of a bucket ascend. */
function buckets(stage: Stage, bytesOf: (layer: number) => number): number[][] {
  const out: number[][] = [];
  let room = 0;
  for (const layer of [...stage.layers].reverse()) {
    const bytes = bytesOf(layer);
    if (bytes === 0) continue;
    if (room <= 0) {
      out.push([]);
      room = BUCKET_BYTES;
    }
    out[out.length - 1]?.unshift(layer);
    room -= bytes;
  }
  return out;
}
