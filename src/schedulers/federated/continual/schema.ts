import * as z from 'zod';
import { scenarioSchema } from '../../continual/schema.ts';

/** The `continual` section of a federated scheduler. */
export function continualSection() {
  return z
    .strictObject({
      scenario: scenarioSchema,
      rounds_per_task: z.int().min(1).default(10).describe('rounds of each task; train.steps follows from it'),
      strategy: z
        .looseObject({
          name: z
            .string()
            .default('naive')
            .describe('what clients do against forgetting: a strategy of scheduler.name: continual, with its keys'),
        })
        .prefault({}),
    })
    .nullable()
    .default(null)
    .describe(
      'a sequence of tasks over the rounds: in each task clients train on their own examples of it. null for none',
    );
}

/** Settings of the tasks of a federated run. */
export type ContinualSection = NonNullable<z.output<ReturnType<typeof continualSection>>>;
