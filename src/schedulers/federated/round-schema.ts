import { z } from 'zod';
import {
  dirichlet,
  drawn,
  iid,
  type Partition,
  type PartitionSource,
  pathological,
  quantity,
  shards,
} from '../../data/index.ts';
import { behaviourSchema } from './behaviour.ts';

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
      name: z.literal('pathological').describe('the same number of classes for each client'),
      classes: z.int().min(1).default(2).describe('classes of each client'),
    }),
    z.strictObject({
      name: z.literal('quantity').describe('the same mix in unequal amounts'),
      alpha: alpha.default(1).describe('the smaller, the more unequal'),
    }),
    z.strictObject({
      name: z.literal('drawn').describe('each client draws its own examples, whatever the others have'),
      size: z.int().min(1).default(50).describe('examples of each client'),
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
  }
}

/** Keys that all federated strategies with rounds have; a round is one of `train.steps`. */
export const roundShape = {
  clients: z.int().min(1).default(100).describe('registered clients'),
  cohort: z.int().min(1).default(10).describe('clients that are asked in a round'),
  local_epochs: z.int().min(1).default(1).describe('passes of a client over its own examples in a round'),
  local_batch: z
    .int()
    .min(1)
    .default(10)
    .describe('examples of a local step; the last one of an epoch has what is left'),
  partition: partitionSchema,
  behaviour: behaviourSchema,
  quorum: z.int().min(1).default(1).describe('clients that must answer for a round to change the parameters'),
  round_deadline_s: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe('simulated seconds after which a round goes on without those that have not answered; null waits'),
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
