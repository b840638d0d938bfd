import * as z from 'zod';
import { createRng, type Rng } from '../../../tensor/index.ts';
import { classBalanced, type ExampleBuffer, reservoir } from '../buffer.ts';
import type { Entry } from '../built-stream.ts';
import { composeTasks, type Seen } from '../compose.ts';
import { type ComposeGiven, registerContinual } from '../strategy.ts';

/** Keys of everything that keeps examples. */
export const bufferShape = {
  buffer: z.int().min(1).default(500).describe('examples that are kept'),
  sampling: z
    .enum(['reservoir', 'class-balanced'])
    .default('reservoir')
    .describe('which are kept: any with equal chance, or as many of each class'),
  replay: z.int().min(1).optional().describe('kept examples of a step, part of batch.global; default: half of it'),
} as const;

const bufferSchema = z.object(bufferShape);
type BufferConfig = z.output<typeof bufferSchema>;

/** The buffer that a config asks for. */
export function bufferOf(given: ComposeGiven, { buffer, sampling }: BufferConfig): ExampleBuffer {
  const rng = createRng(given.seed).fork('continual buffer');
  const made = sampling === 'reservoir' ? reservoir(buffer, rng) : balancedBuffer(given, buffer, rng);
  given.builder.remember(made);
  return made;
}

/** A buffer with equal shares of the outputs. */
export function balancedBuffer({ scenario, dataset }: ComposeGiven, buffer: number, rng: Rng): ExampleBuffer {
  const { labels } = dataset.split('train');
  if (!labels)
    throw new RangeError(
      `strategy.sampling class-balanced needs classes, which ${dataset.name} has not; use reservoir`,
    );
  return classBalanced(
    buffer,
    rng,
    // Where tasks share outputs, a task's classes are still its own: else later tasks would never get in.
    ({ example, task }) =>
      task * scenario.shape.outputs + (scenario.tasks[task]?.outputOf(labels[example] as number) as number),
  );
}

/** New and kept examples of a step. @throws RangeError if one of them would have none */
export function shares(
  { global }: Pick<ComposeGiven, 'global'>,
  { replay }: BufferConfig,
): { fresh: number; replay: number } {
  const kept = replay ?? Math.floor(global / 2);
  if (kept < 1 || kept >= global)
    throw new RangeError(
      `strategy.replay must leave room for new examples: between 1 and ${global - 1} of batch.global ${global}, not ${kept}`,
    );
  return { fresh: global - kept, replay: kept };
}

/** Adds all steps of a strategy that mixes kept examples in; `outputs` decides which outputs an example's loss sees. */
export function composeReplay(
  given: ComposeGiven,
  config: BufferConfig,
  outputs: (
    entry: Seen,
    from: { readonly fresh: readonly Seen[]; readonly kept: boolean },
  ) => readonly number[] | undefined = () => undefined,
): void {
  const buffer = bufferOf(given, config);
  const { fresh, replay } = shares(given, config);
  composeTasks(given, {
    fresh,
    step(seen, { rng, task }) {
      // The first task has nothing to go back to, where it is known.
      const kept = task === 0 && given.scenario.shape.gradual === 0 ? [] : buffer.draw(replay, rng);
      for (const each of seen) buffer.offer(each);
      const entry = (each: Seen, isKept: boolean): Entry => {
        const chosen = outputs(each, { fresh: seen, kept: isKept });
        return { example: each.example, task: each.task, weight: 1, ...(chosen ? { outputs: chosen } : {}) };
      };
      return [...seen.map((each) => entry(each, false)), ...kept.map((each) => entry(each, true))];
    },
  });
}

/** Experience replay (Chaudhry et al., On tiny episodic memories in continual learning, 2019, algorithm 1). */
registerContinual({ name: 'er', taskFree: true, languageModels: true, config: bufferSchema, compose: composeReplay });

/**
 * Experience replay with an asymmetric cross entropy: new examples are told apart only from the classes of their own batch
 * (Caccia et al., New insights on reducing abrupt representation change, ER-ACE, 2022, equation 4).
 */
registerContinual({
  name: 'er-ace',
  taskFree: true,
  config: bufferSchema,
  compose: (given, config) => {
    const labels = given.dataset.split('train').labels as ArrayLike<number>;
    const outputOf = ({ example, task }: Seen) =>
      given.scenario.tasks[task]?.outputOf(labels[example] as number) as number;
    const known = given.scenario.shape.taskKnown;
    composeReplay(given, config, (_, { fresh, kept }) =>
      kept || known ? undefined : [...new Set(fresh.map(outputOf))].sort((a, b) => a - b),
    );
  },
});
