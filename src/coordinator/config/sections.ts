import { z } from 'zod';

const count = (minimum: number) => z.int().min(minimum);

/** The one knob for the batch; accumulation and what each rank computes are derived from it and the mesh. */
export const batchSchema = z
  .strictObject({
    global: count(1).default(32).describe('examples in one optimizer step, over all ranks'),
    micro: count(1)
      .default(8)
      .describe('examples in one global microbatch, the unit of work and of accumulation; must divide batch.global'),
  })
  .prefault({})
  .describe('the one knob for the batch: accumulation and what each rank computes follow from it and the mesh');

/** How long to train and what to do on the way. */
export const trainSchema = z
  .strictObject({
    steps: count(1).default(100).describe('optimizer steps to run'),
    eval_every: count(0).default(0).describe('steps between evaluations; 0 evaluates at the end only'),
    eval_split: z
      .enum(['validation', 'test'])
      .default('validation')
      .describe('part of the dataset that evaluations use; the result is val_loss in summary.json'),
    eval_microbatches: count(1)
      .nullable()
      .default(null)
      .describe('microbatches of an evaluation on the way (the last one always uses the whole split); null for all'),
    checkpoint_every: count(0).default(0).describe('steps between checkpoints; 0 writes one at the end only'),
    keep_last: count(1)
      .default(2)
      .describe('checkpoints kept; older ones are deleted once a newer one is safe on disk'),
  })
  .prefault({})
  .describe('how long to train, and what to do on the way');

/** How ranks talk. */
export const commSchema = z
  .strictObject({
    control: z
      .enum(['local'])
      .default('local')
      .describe('how the coordinator reaches the workers: local (worker threads)'),
    data: z
      .enum(['local'])
      .default('local')
      .describe('transport of tensors between ranks: local (transferred buffers between threads)'),
    compression: z.enum(['none']).default('none').describe('codec of tensors in transit'),
    deadline_s: z
      .number()
      .positive()
      .default(60)
      .describe('seconds that any wait for another rank may take before it is reported as a hang'),
  })
  .prefault({})
  .describe('how ranks talk');

/** Where results go. */
export const runSchema = z
  .strictObject({
    dir: z
      .string()
      .min(1)
      .default('runs')
      .describe('folder in which run folders are made, relative to the working directory'),
    id: z
      .string()
      .regex(/^[\w.-]+$/, 'must consist of letters, digits, dots, dashes and underscores')
      .nullable()
      .default(null)
      .describe('name of the run folder; null makes one from name and time'),
    trace: z
      .boolean()
      .default(false)
      .describe('write trace.json (Chrome trace of every instruction, opens in Perfetto)'),
  })
  .prefault({})
  .describe('where results go');

/** Text that is sampled from a language model, at the end of training and by `plexus generate`. */
export const generateSchema = z
  .strictObject({
    characters: count(0).default(0).describe('characters to sample when training has ended; 0 for none'),
    prompt: z.string().default('').describe('text to continue; empty begins with a line break'),
    temperature: z
      .number()
      .min(0)
      .default(0.8)
      .describe('sharpness of sampling: 0 takes the likeliest token, 1 the model as it is'),
    top_k: count(0).default(40).describe('sample among this many likeliest tokens; 0 among all'),
    seed: count(0).default(0).describe('seed of the sampling'),
  })
  .prefault({})
  .describe('text that is sampled from a language model');

/** Whether results have the same bits on every mesh. */
export const numericsSchema = z
  .enum(['exact', 'fast'])
  .default('exact')
  .describe('exact: any mesh and schedule gives the same bits as one worker; fast: sums in whatever order is quickest');

/** What a forward pass keeps for its backward pass. */
export const rematSchema = z
  .union([z.enum(['none', 'full']), z.record(z.string(), z.enum(['none', 'full']))])
  .default('none')
  .describe('none keeps residuals, full recomputes them in the backward pass; or a mapping from module path to either');
