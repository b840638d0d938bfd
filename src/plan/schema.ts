import * as z from 'zod';

const axis = z.int().min(1).default(1);

/** Names of the schedules that the planner can generate. */
export const SCHEDULE_NAMES = ['gpipe', '1f1b', 'interleaved-1f1b', 'zero-bubble'] as const;

/** A schedule that the planner can generate. */
export type ScheduleName = (typeof SCHEDULE_NAMES)[number];

/** The config's `parallel` section: who computes what. Any choice gives the same bits under `numerics: exact`. */
export const parallelSchema = z
  .strictObject({
    data: axis.describe('ranks that each compute a share of the global microbatches with a replica of the model'),
    pipeline: axis.describe(
      'ranks over which the layers are spread, in order; at most the number of layers. Workers = data * pipeline',
    ),
    expert: axis.describe(
      'ranks of the data axis over which experts are sharded; must divide parallel.data and the number of experts',
    ),
    zero: z
      .union([z.literal(0), z.literal(1), z.literal('auto')])
      .default('auto')
      .describe(
        'optimizer state over the data axis: 0 keeps a copy on every data rank; 1 shards it, so that each rank updates a part of the parameters and gives the others the result (ZeRO stage 1, whole parameters: less memory and work); auto is 1 for threads of one process, and 0 on NATS, where copies help recovery, and with compressed gradients',
      ),
    schedule: z
      .union([
        z.enum(SCHEDULE_NAMES),
        z.strictObject({ file: z.string().min(1).describe('table of the schedule, .yaml or .csv') }),
      ])
      .default('1f1b')
      .describe(
        'order of forwards and backwards over the pipeline: gpipe, 1f1b, interleaved-1f1b, zero-bubble, or {file: table.yaml}',
      ),
    chunks: z
      .int()
      .min(1)
      .nullable()
      .default(null)
      .describe('stages that each pipeline rank holds (interleaved-1f1b only); null means 2 there and 1 elsewhere'),
    stages: z
      .union([
        z.literal('auto'),
        z.array(z.union([z.int().min(1), z.string().min(1), z.array(z.string().min(1)).min(1)])).min(1),
      ])
      .default('auto')
      .describe(
        'how layers are cut into pipeline * chunks stages: auto balances FLOPs; or one entry a stage, each a number of layers or patterns of layer names such as blocks.0..3 or head*',
      ),
  })
  .prefault({});

/** The validated `parallel` section. */
export type ParallelOptions = z.output<typeof parallelSchema>;
