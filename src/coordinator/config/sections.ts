import * as z from 'zod';
import { compressionSchema } from '../../comm/index.ts';

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
    keep_last: count(1).default(2).describe('checkpoints kept; older ones are deleted once a newer one is safe'),
    keep_every: count(0)
      .default(0)
      .describe('checkpoints whose step is a multiple of this are kept for ever; 0 keeps none besides keep_last'),
    checkpoint_on_error: z
      .enum(['continue', 'stop'])
      .default('continue')
      .describe(
        'when a checkpoint cannot be written (a full disk, say): continue warns, keeps the one before and trains on; ' +
          'stop ends the run. The last one of a run must succeed',
      ),
  })
  .prefault({})
  .describe('how long to train, and what to do on the way');

/** How ranks talk. */
export const commSchema = z
  .strictObject({
    control: z
      .enum(['local', 'nats'])
      .default('local')
      .describe('how the coordinator reaches the workers: local (threads of its own process), nats (plexus worker)'),
    data: z
      .enum(['auto', 'local', 'host', 'unix', 'tcp', 'nats'])
      .default('auto')
      .describe(
        'links between ranks: auto takes for each pair the fastest that is possible (threads of one process: local; ' +
          'one machine: host, shared memory, or unix sockets; direct tcp; else through nats); another name allows only that',
      ),
    nats: z
      .strictObject({
        url: z.string().min(1).nullable().default(null).describe('NATS server(s), comma-separated; --nats comes first'),
      })
      .prefault({})
      .describe('where the NATS server is'),
    compression: compressionSchema,
    deadline_s: z
      .number()
      .positive()
      .default(60)
      .describe('seconds that any wait for another rank may take before it is reported as a hang'),
    lease_s: z
      .number()
      .min(0.5)
      .default(5)
      .describe('seconds of silence after which the coordinator of a run on NATS counts as gone'),
  })
  .prefault({})
  .describe('how ranks talk');

/** What a run on NATS does about workers that go and come. */
export const recoverySchema = z
  .strictObject({
    snapshot_every: count(1)
      .default(1)
      .describe('steps between snapshots of each rank in memory, to which the run rolls back when a worker is lost'),
    replicas: z
      .boolean()
      .default(true)
      .describe('copy what only one worker holds (experts, stages) from its snapshots into the memory of another'),
    max_recoveries: count(0).default(1000).describe('workers may be lost this many times before the run ends'),
    wait_s: z.number().positive().default(600).describe('seconds to wait for the workers that a run needs at least'),
  })
  .prefault({})
  .describe('what a run on NATS does about workers that go and come');

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
    store: z
      .enum(['folder', 'nats'])
      .default('folder')
      .describe(
        'where checkpoints are kept: folder (the run folder), nats (there too, and with the run in JetStream, from where ' +
          'it can be resumed on any machine)',
      ),
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
