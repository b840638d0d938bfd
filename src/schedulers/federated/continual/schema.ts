import { z } from 'zod';
import { scenarioSchema } from '../../continual/schema.ts';
import { continualStrategies } from '../../continual/strategy.ts';
import '../../continual/strategies/index.ts';

/** The `continual` section of a federated scheduler. */
export function continualSection() {
  return z
    .strictObject({
      scenario: scenarioSchema,
      rounds_per_task: z.int().min(1).default(10).describe('rounds of each task; train.steps follows from it'),
      strategy: z
        .looseObject({
          name: z
            .enum([...continualStrategies().keys()] as [string, ...string[]])
            .describe('what clients do against forgetting; its own keys are those of scheduler.name: continual'),
        })
        .prefault({ name: 'naive' }),
    })
    .nullable()
    .default(null)
    .describe(
      'a sequence of tasks over the rounds: in each task clients train on their own examples of it. null for none',
    );
}

/** Settings of the tasks of a federated run. */
export type ContinualSection = NonNullable<z.output<ReturnType<typeof continualSection>>>;
