import { cosTurns, powInteger } from '../tensor/index.ts';
import type { ScheduleConfig } from './schema.ts';

/**
 * Factor on the peak learning rate at a step (0-based), for a run of `totalSteps`. During warm-up step s has
 * (s + 1) / warmup; afterwards decay is measured from the end of the warm-up. A pure function with the same bits in every
 * runtime: learning rates end in weights.
 */
export function scheduleFactor(schedule: ScheduleConfig, totalSteps: number, step: number): number {
  const { warmup } = schedule;
  if (step < warmup) return (step + 1) / warmup;
  const since = step - warmup;
  switch (schedule.name) {
    case 'constant':
      return 1;
    case 'step':
      return powInteger(schedule.gamma, Math.floor(since / schedule.every));
    case 'linear':
      return 1 - progress(schedule.steps ?? totalSteps, warmup, since) * (1 - schedule.final);
    case 'cosine': {
      const wave = (1 + cosTurns(progress(schedule.steps ?? totalSteps, warmup, since) / 2)) / 2;
      return schedule.final + (1 - schedule.final) * wave;
    }
  }
}

/** Fraction of the decay that has passed, 0 to 1. */
function progress(end: number, warmup: number, since: number): number {
  const length = end - warmup;
  return length <= 0 ? 1 : Math.min(1, since / length);
}
