import type { Program } from '../plan/index.ts';

/**
 * Messages that may be under way in a channel: at least what a program sends through one in a step (a message for each
 * microbatch), so that no order of instructions that the verifier has passed can block for want of credit. The same on
 * all ranks of a job, as transports ask.
 */
export function creditsFor({ microbatches }: Pick<Program, 'microbatches'>): number {
  return Math.max(64, microbatches);
}
