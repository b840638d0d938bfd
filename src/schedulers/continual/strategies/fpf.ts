import * as z from 'zod';
import { createRng } from '../../../tensor/index.ts';
import type { ExampleBuffer } from '../buffer.ts';
import type { Remembered } from '../built-stream.ts';
import { composeTasks } from '../compose.ts';
import {
  type ComposeGiven,
  continualStrategy,
  type ResolvedStrategy,
  registerAround,
  type StrategySection,
  strategySchema,
} from '../strategy.ts';
import { GO_ON, tune, watched, withTuning } from '../tuning.ts';
import { balancedBuffer } from './replay.ts';

const tuningShape = {
  share: z
    .number()
    .gt(0)
    .max(1)
    .default(0.67)
    .describe('part of the modules that are fine-tuned: those that change most between tasks; at least one'),
  rate: z.number().positive().default(1).describe('what gradients are multiplied by while modules are fine-tuned'),
} as const;

const fpfSchema = () =>
  z.object({
    ...tuningShape,
    base: strategySchema()
      .prefault({ name: 'er' } as never)
      .describe('strategy that is trained with before'),
    buffer: z.int().min(1).default(500).describe('examples that are fine-tuned on, where the base keeps none'),
    tuning_epochs: z.int().min(1).default(10).describe('passes over the buffer when the last task is over'),
  });

const kFpfSchema = () =>
  z.object({
    ...tuningShape,
    buffer: z.int().min(1).default(500).describe('examples that are kept, as many of each class'),
    times: z.int().min(1).default(4).describe('how often modules are fine-tuned, evenly over the run: k'),
    tuning_epochs: z.int().min(1).default(10).describe('passes over the buffer each time'),
    skip: z
      .number()
      .min(0)
      .lt(1)
      .default(0)
      .describe(
        'part of the new examples that are offered to the buffer but not trained on, which saves their computation',
      ),
  });

const ownBuffer = (given: ComposeGiven, size: number): ExampleBuffer =>
  balancedBuffer(given, size, createRng(given.seed).fork('continual tuning buffer'));

/**
 * Forgetting prioritized finetuning: after training with any strategy, the modules that changed most between tasks are fine-tuned on
 * a small buffer, and all others stay (Zhao et al., Does continual learning equally forget all parameters?, 2023, algorithm 1). The
 * buffer is the base's own where it has one.
 */
registerAround({
  name: 'fpf',
  config: fpfSchema,
  around(config): ResolvedStrategy {
    const { name, ...baseConfig } = config.base as StrategySection;
    const base = continualStrategy(name);
    const compose = (given: ComposeGiven): void => {
      const own = ownBuffer(given, config.buffer);
      let buffer: Remembered | null = null;
      let left = given.scenario.tasks.length;
      const remembers = (made: Remembered) => {
        buffer = made;
      };
      const ends = () => {
        if (!buffer) given.builder.remember(own);
        buffer ??= own;
        left -= 1;
        if (left === 0) tune(given, buffer, config.tuning_epochs);
      };
      const instead: ComposeGiven = { ...given, builder: watched(given, own, { ends, remembers }) };
      if (base.compose) base.compose(instead, baseConfig);
      else composeTasks(instead, { fresh: given.global });
    };
    return { strategy: { ...withTuning(base, 'fpf', config), compose }, config: baseConfig };
  },
});

/**
 * The same k times during naive training, in place of replay in every step (the same, section 4.2, k-FPF): evenly over the tasks after
 * the first, and so at the end too.
 */
registerAround({
  name: 'k-fpf',
  config: kFpfSchema,
  around(config): ResolvedStrategy {
    const compose = (given: ComposeGiven): void => {
      const { builder, scenario, epochs, global } = given;
      const steps = scenario.tasks.map(({ examples }) => Math.ceil((examples.train.length * epochs) / global));
      const total = steps.slice(1).reduce((sum, count) => sum + count, 0);
      const buffer = ownBuffer(given, config.buffer);
      builder.remember(buffer);
      let [all, later, tuned] = [0, 0, 0];
      const stepped = (task: number) => {
        if (task > 0) later += 1;
        if (Math.floor((later * config.times) / total) === tuned) return;
        tuned += 1;
        tune(given, buffer, config.tuning_epochs);
        if (later < total) builder.pause(GO_ON);
      };
      // Evenly: a step is left out whenever another one is due.
      const holdsBack = () => {
        all += 1;
        return Math.floor(all * config.skip) > Math.floor((all - 1) * config.skip);
      };
      composeTasks({ ...given, builder: watched(given, buffer, { stepped, holdsBack }) }, { fresh: global });
    };
    const naive = continualStrategy('naive');
    return { strategy: { ...withTuning(naive, 'k-fpf', config), compose }, config: {} };
  },
});
