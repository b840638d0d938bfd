import * as z from 'zod';
import { concat } from '../arrays.ts';
import { composeTask } from '../compose.ts';
import type { Task } from '../scenario.ts';
import { registerContinual } from '../strategy.ts';

/** Each task is fine-tuned on, and nothing is done against forgetting: the lower bound. */
registerContinual({ name: 'naive', taskFree: true, languageModels: true, config: z.object({}) });

/** All tasks at once, in one shuffled stream: the upper bound. */
registerContinual({
  name: 'joint',
  taskFree: true,
  languageModels: true,
  config: z.object({}),
  compose: (given) => {
    const { scenario, builder } = given;
    composeMixed(given, scenario.tasks);
    for (const _ of scenario.tasks) builder.endTask();
  },
});

/** Each task is learnt together with all data of those before. */
registerContinual({
  name: 'cumulative',
  languageModels: true,
  config: z.object({}),
  compose: (given) => {
    const { scenario, builder } = given;
    for (const task of scenario.tasks) {
      composeMixed(given, scenario.tasks.slice(0, task.index + 1));
      builder.endTask();
    }
  },
});

/** Steps over several tasks' examples, shuffled together. */
function composeMixed(given: Parameters<typeof composeTask>[0], tasks: readonly Task[]): void {
  const all = concat(tasks.map((task) => task.examples.train));
  const taskOf = tasks.flatMap((task) => Array.from(task.examples.train, () => task.index));
  const last = tasks.at(-1) as Task;
  // Numbers of places in `all`, so that an example that several tasks have keeps its task.
  const places = Int32Array.from(all.keys());
  composeTask(given, last, places, {
    fresh: given.global,
    step: (seen) =>
      seen.map(({ example: place }) => ({
        example: all[place] as number,
        task: taskOf[place] as number,
        weight: 1,
      })),
  });
}
