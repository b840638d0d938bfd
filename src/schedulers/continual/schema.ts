import { z } from 'zod';

const tasks = z.int().min(1).default(5).describe('number of tasks');

/** How a dataset becomes a sequence of tasks. */
export const streamSchema = z
  .discriminatedUnion('name', [
    z.strictObject({
      name: z.literal('split').describe('each task has some of the classes: Split-MNIST and its like'),
      tasks,
      classes: z
        .array(z.array(z.int().min(0)).min(1))
        .min(1)
        .optional()
        .describe('classes of each task; default: equal shares in order'),
    }),
    z.strictObject({
      name: z.literal('permuted').describe('each task has its own fixed permutation of the inputs; the first has none'),
      tasks: tasks.default(10),
      seed: z.int().default(0).describe('what the permutations are drawn from'),
    }),
    z.strictObject({
      name: z.literal('rotated').describe('each task turns the images by another angle'),
      tasks,
      degrees: z.number().default(180).describe('angle of the last task, in degrees'),
    }),
  ])
  .prefault({ name: 'split' });

/** What is asked of the model in each task, and what it is told. */
export const scenarioSchema = z
  .strictObject({
    name: z
      .enum(['task-incremental', 'domain-incremental', 'class-incremental'])
      .default('class-incremental')
      .describe(
        'task-incremental: the task is known; domain-incremental: same outputs for all tasks; class-incremental: new outputs, task unknown',
      ),
    stream: streamSchema,
  })
  .prefault({});

export type ScenarioConfig = z.output<typeof scenarioSchema>;
