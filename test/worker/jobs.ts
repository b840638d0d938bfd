import type { Dataset, Split } from '../../src/data/index.ts';
import {
  buildModel,
  init,
  type Model,
  type ModelConfig,
  type Module,
  modelSchema,
  nn,
} from '../../src/modules/index.ts';
import { buildOptimizer, optimSchema } from '../../src/optim/index.ts';
import { compilePlan, type ParallelOptions, type Plan, parallelSchema, summariseModel } from '../../src/plan/index.ts';
import { createRng, float32, int32 } from '../../src/tensor/index.ts';
import type { RankOverrides, WorkerJob } from '../../src/worker/index.ts';

export const VOCAB = 17;
export const LENGTH = 6;

/** Token sequences in which each token mostly follows from the one before, so that there is something to learn. */
export function tokenDataset(examples = 64): Dataset {
  const rng = createRng('worker tests');
  const rows = Array.from({ length: examples }, () => {
    const row = [rng.integer(VOCAB)];
    while (row.length <= LENGTH)
      row.push(rng.uniform() < 0.8 ? ((row[row.length - 1] as number) * 5 + 3) % VOCAB : rng.integer(VOCAB));
    return row;
  });
  const split = (name: Split['name'], from: number, to: number): Split => ({
    name,
    examples: to - from,
    batch: (indices) => {
      const pick = (shift: number) =>
        int32(
          [...indices].flatMap((i) => (rows[from + i] as number[]).slice(shift, shift + LENGTH)),
          [indices.length, LENGTH],
        );
      return { inputs: [pick(0)], targets: [pick(1)] };
    },
  });
  const edge = Math.floor(examples * 0.75);
  const parts = {
    train: split('train', 0, edge),
    validation: split('validation', edge, examples),
    test: split('test', edge, examples),
  };
  return {
    name: 'tokens',
    info: {
      inputs: [{ dtype: 'int32', shape: [LENGTH] }],
      targets: [{ dtype: 'int32', shape: [LENGTH] }],
      vocabSize: VOCAB,
    },
    tokensPerExample: LENGTH,
    split: (name) => parts[name],
    baselines: () => ({}),
  };
}

/** Rows of floats with a target that is a fixed function of them. */
export function vectorDataset(width = 5, examples = 40): Dataset {
  const rng = createRng('vectors');
  const rows = Array.from({ length: examples }, () => Array.from({ length: width }, () => rng.normal()));
  const targetOf = (row: readonly number[]) => [Math.tanh(row[0]! - row[1]!), row[2]! * 0.5];
  const split = (name: Split['name']): Split => ({
    name,
    examples,
    batch: (indices) => ({
      inputs: [
        float32(
          [...indices].flatMap((i) => rows[i] as number[]),
          [indices.length, width],
        ),
      ],
      targets: [
        float32(
          [...indices].flatMap((i) => targetOf(rows[i] as number[])),
          [indices.length, 2],
        ),
      ],
    }),
  });
  return {
    name: 'vectors',
    info: { inputs: [{ dtype: 'float32', shape: [width] }], targets: [{ dtype: 'float32', shape: [2] }] },
    tokensPerExample: 1,
    split,
    baselines: () => ({}),
  };
}

/** A few dense layers with a mean-squared-error loss. */
export function mlpModel(width = 5, hidden = 8, layers = 3): Model {
  const dense = (from: number, to: number): Module =>
    nn.sequential({ linear: nn.linear(from, to), act: nn.activation('tanh') });
  return {
    layers: [
      { name: 'in', module: dense(width, hidden) },
      ...Array.from({ length: layers - 2 }, (_, i) => ({ name: `hidden.${i}`, module: dense(hidden, hidden) })),
      { name: 'out', module: nn.linear(hidden, 2, { init: init.normal(0.3) }) },
    ],
    loss: nn.meanSquaredError(),
  };
}

/** What a job under test is made of. */
export interface JobOptions {
  readonly dataset?: Dataset;
  readonly model?: Model | Record<string, unknown>;
  readonly optim?: Record<string, unknown>;
  readonly parallel?: Partial<Record<keyof ParallelOptions, unknown>>;
  readonly batch?: { global: number; micro: number };
  readonly job?: Partial<WorkerJob>;
}

/** Jobs for every rank, and what they have in common. */
export async function makeJobs(
  options: JobOptions = {},
): Promise<{ jobs: WorkerJob[]; overrides: RankOverrides; plan: Plan }> {
  const dataset = options.dataset ?? tokenDataset();
  const given = options.model ?? { layers: 2, dim: 8, heads: 2 };
  const model =
    'loss' in given
      ? (given as unknown as Model)
      : (await buildModel(modelSchema.parse({ name: 'transformer-lm', args: given }) as ModelConfig, dataset.info))
          .model;
  const optim = optimSchema.parse({ name: 'adamw', lr: 0.01, ...options.optim });
  const optimizer = buildOptimizer(optim, { totalSteps: 100 });
  const batch = options.batch ?? { global: 16, micro: 2 };
  const summary = await summariseModel(model, dataset.info, batch.micro, optimizer.optimizer);
  const plan = compilePlan({ summary, parallel: parallelSchema.parse(options.parallel ?? {}), batch });
  const jobs = plan.programs.map(
    (train, rank): WorkerJob => ({
      runId: 'test',
      rank,
      seed: 7,
      model: null,
      optim: null,
      totalSteps: 100,
      data: { kind: 'none', info: dataset.info },
      engine: { kind: 'onnx', device: 'cpu', threads: 1 },
      batch,
      numerics: 'exact',
      remat: 'none',
      train,
      evaluate: plan.evaluate[rank] as WorkerJob['evaluate'],
      deadlineMs: 20_000,
      checkpoint: null,
      trace: false,
      ...options.job,
    }),
  );
  return { jobs, overrides: { model, dataset, optimizer }, plan };
}
