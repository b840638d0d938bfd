import { PlanError } from './errors.ts';
import type { ScheduleName } from './schema.ts';

/** F forward, B whole backward, I gradient of the inputs only, W the deferred gradient of the parameters. */
export type ActionKind = 'F' | 'B' | 'I' | 'W';

/** One cell of a schedule: `2F0` is the forward of stage 2 for microbatch 0. */
export interface Action {
  readonly kind: ActionKind;
  /** Virtual stage along the whole model. */
  readonly stage: number;
  /** Local number: the n-th microbatch of a data rank's share. */
  readonly microbatch: number;
}

/** A pipeline schedule as data: what every pipeline rank computes, in order. Communication is put in later. */
export interface Schedule {
  readonly name: string;
  /** Microbatches of one data rank. */
  readonly microbatches: number;
  /** Pipeline rank that holds each stage. */
  readonly stageRanks: readonly number[];
  /** Actions of each pipeline rank. */
  readonly ranks: readonly (readonly Action[])[];
}

/**
 * Generates a schedule for `pipeline` ranks, `microbatches` per data rank and `chunks` stages per rank (stage s is on
 * rank s mod pipeline).
 *
 * - `gpipe`: all forwards, then all backwards (Huang et al. 2019, arXiv:1811.06965).
 * - `1f1b`: at most pipeline - rank microbatches in flight (PipeDream-Flush, Narayanan et al. 2021, arXiv:2006.09503).
 * - `interleaved-1f1b`: 1f1b over several chunks a rank, with a bubble `chunks` times smaller (Narayanan et al. 2021,
 *   arXiv:2104.04473). Where `pipeline` does not divide `microbatches`, the order is that of the next multiple with the
 *   surplus left out (leaving actions out keeps an order valid).
 * - `zero-bubble`: ZB-H1 (Qi et al. 2023, arXiv:2401.10241): the backward is split, and parameter gradients fill what
 *   is the bubble in 1f1b, with no more microbatches in flight than 1f1b's first rank has.
 */
export function generateSchedule(name: ScheduleName, pipeline: number, microbatches: number, chunks = 1): Schedule {
  for (const [key, value] of Object.entries({ pipeline, microbatches, chunks }))
    if (!Number.isInteger(value) || value < 1)
      throw new PlanError(`a schedule needs a positive whole ${key}, got ${value}`);
  if (chunks > 1 && name !== 'interleaved-1f1b')
    throw new PlanError(`the schedule ${name} has one chunk for each rank, got ${chunks}: use interleaved-1f1b`);
  const ranks = Array.from({ length: pipeline }, (_, rank) => actionsOf(name, rank, pipeline, microbatches, chunks));
  const stageRanks = Array.from({ length: pipeline * chunks }, (_, stage) => stage % pipeline);
  return { name, microbatches, stageRanks, ranks };
}

function actionsOf(name: ScheduleName, rank: number, pipeline: number, microbatches: number, chunks: number): Action[] {
  switch (name) {
    case 'gpipe':
      return [...phase('F', rank, 0, microbatches), ...phase('B', rank, 0, microbatches)];
    case '1f1b':
      return oneForwardOneBackward(rank, pipeline, microbatches);
    case 'interleaved-1f1b':
      return interleaved(rank, pipeline, microbatches, chunks);
    case 'zero-bubble':
      return zeroBubble(rank, pipeline, microbatches);
  }
}

function phase(kind: ActionKind, stage: number, from: number, to: number): Action[] {
  return Array.from({ length: Math.max(0, to - from) }, (_, i) => ({ kind, stage, microbatch: from + i }));
}

function oneForwardOneBackward(stage: number, pipeline: number, microbatches: number): Action[] {
  const warmup = Math.min(microbatches, pipeline - stage - 1);
  const actions = phase('F', stage, 0, warmup);
  for (let i = 0; i < microbatches - warmup; i++)
    actions.push({ kind: 'F', stage, microbatch: warmup + i }, { kind: 'B', stage, microbatch: i });
  return [...actions, ...phase('B', stage, microbatches - warmup, microbatches)];
}

function interleaved(rank: number, pipeline: number, microbatches: number, chunks: number): Action[] {
  if (chunks === 1) return oneForwardOneBackward(rank, pipeline, microbatches);
  const padded = Math.ceil(microbatches / pipeline) * pipeline;
  const total = padded * chunks;
  const warmup = Math.min(total, (pipeline - rank - 1) * 2 + (chunks - 1) * pipeline);
  const turn = pipeline * chunks;
  const action = (kind: 'F' | 'B', k: number): Action => {
    const position = Math.floor((k % turn) / pipeline);
    const chunk = kind === 'F' ? position : chunks - 1 - position;
    return { kind, stage: chunk * pipeline + rank, microbatch: Math.floor(k / turn) * pipeline + (k % pipeline) };
  };
  const actions: Action[] = [];
  for (let k = 0; k < warmup; k++) actions.push(action('F', k));
  for (let k = warmup; k < total; k++) actions.push(action('F', k), action('B', k - warmup));
  for (let k = total - warmup; k < total; k++) actions.push(action('B', k));
  return actions.filter((a) => a.microbatch < microbatches);
}

function zeroBubble(stage: number, pipeline: number, microbatches: number): Action[] {
  const warmup = Math.min(microbatches, pipeline - stage - 1);
  const actions = phase('F', stage, 0, warmup);
  let weight = 0;
  for (let i = 0; i < microbatches; i++) {
    if (warmup + i < microbatches) actions.push({ kind: 'F', stage, microbatch: warmup + i });
    actions.push({ kind: 'I', stage, microbatch: i });
    // Rank r puts r parameter gradients off, so that they fill the time in which the ranks before it drain.
    if (i >= stage) actions.push({ kind: 'W', stage, microbatch: weight++ });
  }
  return [...actions, ...phase('W', stage, weight, microbatches)];
}

/** A cell of a schedule table, e.g. `2F0`. */
export function formatAction(action: Action): string {
  return `${action.stage}${action.kind}${action.microbatch}`;
}
