import * as z from 'zod';

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
    z.strictObject({
      name: z
        .literal('natural')
        .describe('each task has some values of a key of the data: eras of speeches, hospitals of patients'),
      key: z
        .string()
        .min(1)
        .describe(
          'column of a CSV file; document of text; document, year, president or party of State of the Union speeches',
        ),
      tasks: tasks.describe(
        'number of tasks, unless bounds or values are given: about equal shares in order of the key',
      ),
      bounds: z
        .array(z.number())
        .min(1)
        .optional()
        .describe('where a key that is a number begins another task: its lowest value in each task but the first'),
      values: z
        .array(z.array(z.string()).min(1))
        .min(1)
        .optional()
        .describe('values of the key in each task; examples with others are not used'),
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
    gradual: z
      .number()
      .min(0)
      .max(1)
      .default(0)
      .describe(
        'share of each task in which it mixes with its neighbours, half with each, and nobody says when tasks change; 0: sharp boundaries',
      ),
  })
  .prefault({});

export type ScenarioConfig = z.output<typeof scenarioSchema>;
