import type { JobOptions } from '../worker/jobs.ts';

/** Six layers (embedding, four blocks, head), so that a pipeline of three ranks can have two stages each. */
const dense = { layers: 4, dim: 8, heads: 2, ffn: { hidden: 16 } };
/** Every other block is a mixture. */
const experts = { experts: 4, top_k: 2, every: 2, hidden: 8 };

/**
 * Models under test, small but with all the parts: eight global microbatches of two sequences a step.
 * (The optimizer of all of them is AdamW, in which every bit of a gradient matters.)
 */
export const variants = {
  dense: { model: dense },
  'dense, clipping, dropout': { model: { ...dense, dropout: 0.1 }, optim: { clip_norm: 0.5 } },
  dropless: { model: { ...dense, moe: experts } },
  'dropless, clipping, dropout': {
    model: { ...dense, dropout: 0.1, moe: { ...experts, bias_rate: 0.01 } },
    optim: { clip_norm: 0.5 },
  },
  capacity: { model: { ...dense, moe: { ...experts, capacity_factor: 1 } } },
} satisfies Record<string, JobOptions>;

/** A variant's name. */
export type Variant = keyof typeof variants;

type Parallel = NonNullable<JobOptions['parallel']>;

const mesh = (data: number, pipeline: number, expert: number): Parallel => ({ data, pipeline, expert });

/** With optimizer state on every data rank; the others shard it. */
const whole = (parallel: Parallel): Parallel => ({ ...parallel, zero: 0 });

const schedules = ['gpipe', '1f1b', 'interleaved-1f1b', 'zero-bubble'] as const;

/** Meshes with every schedule, or with every other one, each mesh beginning with another. */
const scheduled = (meshes: readonly Parallel[], all: boolean): Parallel[] =>
  meshes.flatMap((shape, i) =>
    schedules.filter((_, j) => all || (i + j) % 2 === 0).map((schedule) => ({ ...shape, schedule })),
  );

/** Meshes without a pipeline have no schedule to choose. */
const replicated = [mesh(2, 1, 1), mesh(4, 1, 1), mesh(3, 1, 1), whole(mesh(3, 1, 1))];
const sharded = [mesh(2, 1, 2), mesh(4, 1, 2), mesh(4, 1, 4), whole(mesh(4, 1, 2))];
const pipelined = [mesh(1, 2, 1), mesh(1, 3, 1), mesh(2, 2, 1)];

/** Meshes and schedules on which a variant is run. */
export function cellsOf(variant: Variant): Parallel[] {
  const all = variant === 'dense' || variant === 'dropless';
  return !('moe' in variants[variant].model)
    ? [...replicated, ...scheduled(pipelined, all)]
    : [...replicated, ...sharded, ...scheduled([...pipelined, mesh(2, 2, 2)], all)];
}
