import * as z from 'zod';
import {
  dirichlet,
  drawn,
  iid,
  natural,
  type Partition,
  type PartitionSource,
  pathological,
  quantity,
  shards,
} from '../../data/index.ts';
import { behaviourSchema } from './behaviour.ts';
import { updateCompressionSchema } from './compression.ts';

const alpha = z.number().positive();

/** How the training examples are shared out over clients. */
export const partitionSchema = z
  .discriminatedUnion('name', [
    z.strictObject({ name: z.literal('iid').describe('equal parts of a random order') }),
    z.strictObject({
      name: z.literal('dirichlet').describe('each class in proportions drawn from a Dirichlet distribution'),
      alpha: alpha.default(0.5).describe('the smaller, the fewer classes a client has'),
      min_size: z.int().min(0).default(1).describe('examples that each client must have'),
    }),
    z.strictObject({
      name: z.literal('shards').describe('shards of examples sorted by class'),
      shards: z.int().min(1).default(2).describe('shards of each client'),
    }),
    z.strictObject({
      name: z.literal('pathological').describe('so many classes for each client, or those that are listed'),
      classes: z
        .union([z.int().min(1), z.array(z.array(z.int().min(0)).min(1)).min(1)])
        .default(2)
        .describe('classes of each client: how many, or a list of them for each client'),
    }),
    z.strictObject({
      name: z.literal('quantity').describe('the same mix in unequal amounts'),
      alpha: alpha.default(1).describe('the smaller, the more unequal'),
    }),
    z.strictObject({
      name: z.literal('drawn').describe('each client draws its own examples, whatever the others have'),
      size: z.int().min(1).default(50).describe('examples of each client'),
    }),
    z.strictObject({
      name: z
        .literal('natural')
        .describe('a client for each key that the data has; scheduler.clients is not looked at'),
      key: z
        .string()
        .min(1)
        .default('document')
        .describe('a column of a CSV file; for text document, for sotu also president, party or year'),
      min_size: z.int().min(1).default(1).describe('examples that a key must have; others are left out'),
    }),
  ])
  .prefault({ name: 'iid' })
  .describe('how the training examples are shared out over clients');

/** Settings of a partition. */
export type PartitionConfig = z.output<typeof partitionSchema>;

/** Shares the examples out as a config says. @throws RangeError saying why it cannot be done */
export function makePartition(
  config: PartitionConfig,
  source: PartitionSource,
  options: { readonly clients: number; readonly seed: number },
): Partition {
  switch (config.name) {
    case 'iid':
      return iid(source, options);
    case 'dirichlet':
      return dirichlet(source, { ...options, ...config });
    case 'shards':
      return shards(source, { ...options, ...config });
    case 'pathological':
      return pathological(source, { ...options, ...config });
    case 'quantity':
      return quantity(source, { ...options, ...config });
    case 'drawn':
      return drawn(source, { ...options, ...config });
    case 'natural':
      return natural(source, config);
  }
}

const featureShiftSchema = z
  .discriminatedUnion('name', [
    z.strictObject({ name: z.literal('none').describe('all clients see alike') }),
    z.strictObject({
      name: z
        .literal('rotation')
        .describe('the images of a client are turned by the angle of its group; evaluations see all angles'),
      groups: z.int().min(1).max(64).default(4).describe('groups of clients, the first of which sees images upright'),
      degrees: z.number().gt(0).max(360).default(360).describe('the angles are spread evenly over so many degrees'),
    }),
  ])
  .prefault({ name: 'none' })
  .describe('how what clients see differs, besides whose examples they are');

/** Examples of a local step, as a number: more than any client has where it is to be all of them. */
export function localBatch({ local_batch: batch }: { readonly local_batch: number | null }): number {
  return batch ?? Number.MAX_SAFE_INTEGER;
}

/** Settings of the difference between what clients see. */
export type FeatureShiftConfig = z.output<typeof featureShiftSchema>;

const clientMetricsSchema = z
  .strictObject({
    clients: z
      .int()
      .min(0)
      .default(100)
      .describe('clients that are looked at one by one in each evaluation, drawn once; 0 for none'),
    examples: z.int().min(1).default(250).describe('examples of each of them at most'),
    holdout: z
      .number()
      .min(0)
      .max(0.9)
      .default(0)
      .describe('part of its examples that each client does not train on; it is measured on those. 0: on the others'),
  })
  .prefault({})
  .describe('how well the model does for each client: mean, percentiles, worst tenth');

/** Settings of what is measured of single clients. */
export type ClientMetricsConfig = z.output<typeof clientMetricsSchema>;

/** Keys that all federated runs have that train on data shared out over clients. */
export const runShape = {
  partition: partitionSchema,
  feature_shift: featureShiftSchema,
  client_metrics: clientMetricsSchema,
  target_accuracy: z
    .number()
    .gt(0)
    .max(1)
    .nullable()
    .default(null)
    .describe('accuracy of an evaluation that is aimed at; summary.json says after how many rounds it was reached'),
  stop_at_target: z.boolean().default(false).describe('whether the run ends where target_accuracy is reached'),
} as const;

const runSchema = z.object(runShape);

/** Settings that all federated runs have. */
export type RunSettings = z.output<typeof runSchema>;

/** Keys that all federated strategies with rounds have; a round is one of `train.steps`. */
export const roundShape = {
  clients: z.int().min(1).default(100).describe('registered clients'),
  cohort: z.int().min(1).default(10).describe('clients that are asked in a round'),
  local_epochs: z.int().min(1).default(1).describe('passes of a client over its own examples in a round'),
  local_batch: z
    .int()
    .min(1)
    .nullable()
    .default(10)
    .describe(
      "examples of a local step; the last one of an epoch has what is left. null: all of a client's examples (a step is compiled for each size)",
    ),
  ...runShape,
  behaviour: behaviourSchema,
  compression: updateCompressionSchema,
  quorum: z.int().min(1).default(1).describe('clients that must answer for a round to change the parameters'),
  round_deadline_s: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe(
      'simulated seconds after which a round goes on without those that have not answered; null waits. With real clients ' +
        '(--nats) seconds of the clock, null for 60',
    ),
  max_norm: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe('norm above which an update is not used and its client is named'),
  threads: z.int().min(0).default(0).describe('threads that train clients; 0 for one a core'),
} as const;

const roundSchema = z.object(roundShape);

/** Settings that all federated strategies with rounds have. */
export type RoundConfig = z.output<typeof roundSchema>;
