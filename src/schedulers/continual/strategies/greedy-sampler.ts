import * as z from 'zod';
import { createRng, float32, permutation } from '../../../tensor/index.ts';
import type { Kept } from '../buffer.ts';
import { composeTask } from '../compose.ts';
import { registerContinual } from '../strategy.ts';
import { bufferOf, bufferShape } from './replay.ts';

const INITIAL = 'initial/';

const gdumbSchema = z.object({
  buffer: bufferShape.buffer,
  epochs: z
    .int()
    .min(1)
    .default(30)
    .describe('passes over the buffer at the end of each task; scheduler.epochs has no effect'),
});

/**
 * Greedy sampler and dumb learner (Prabhu, Torr and Dokania, GDumb: a simple approach that questions our progress in continual learning,
 * 2020, algorithms 1 and 2): examples are only sampled while a task goes on, classes having equal shares; at its end a model is
 * trained from where training began on what is kept, and on nothing else.
 */
registerContinual({
  name: 'gdumb',
  config: gdumbSchema,
  compose: (given, { buffer: capacity, epochs }) => {
    const { scenario, builder, global, seed } = given;
    const buffer = bufferOf(given, { buffer: capacity, sampling: 'class-balanced' });
    for (const task of scenario.tasks) {
      const { train } = task.examples;
      const order = permutation(train.length, createRng(seed).fork('continual stream', task.index));
      for (const at of order) buffer.offer({ example: train[at] as number, task: task.index });
      // Numbers of places in the buffer, so that each example keeps its task.
      const held = [...buffer.held];
      builder.restart();
      composeTask({ ...given, epochs }, task, Int32Array.from(held.keys()), {
        fresh: global,
        step: (seen) => seen.map(({ example: place }) => ({ ...(held[place] as Kept), weight: 1 })),
      });
      builder.endTask();
    }
  },
  transitions: () => ({
    forget: ({ slots }) => {
      for (const values of Object.values(slots)) values.fill(0);
    },
  }),
  beforeTask: async ({ task, parameters, setParameters, transition, keep, kept }) => {
    const now = await parameters();
    if (task === 0) {
      for (const [path, values] of Object.entries(now)) keep(`${INITIAL}${path}`, float32(values, [values.length]));
      return;
    }
    const initial = Object.keys(now).map((path) => [path, kept(`${INITIAL}${path}`)?.data as Float32Array]);
    await setParameters(Object.fromEntries(initial) as Record<string, Float32Array>);
    await transition('forget', null);
  },
});
