import { z } from 'zod';
import type { RunEvent, Scheduler, Session } from '../coordinator/index.ts';

/** The first multiple of `every` after `position`, or infinity for 0 (never). */
function nextDue(position: number, every: number): number {
  return every === 0 ? Number.POSITIVE_INFINITY : (Math.floor(position / every) + 1) * every;
}

/**
 * Synchronous training: every step is one optimizer step over the whole global batch, on all ranks together. Evaluates
 * and checkpoints when they are due and at the end; when interrupted, finishes the step and checkpoints.
 */
async function* run(session: Session): AsyncGenerator<RunEvent> {
  const { steps, eval_every, eval_split, eval_microbatches, checkpoint_every } = session.config.train;
  while (session.position < steps && !session.signal.aborted) {
    // Ranks work ahead of the coordinator, so they are let run only up to the next point where all must meet.
    const evaluation = nextDue(session.position, eval_every);
    const checkpoint = nextDue(session.position, checkpoint_every);
    yield* session.steps(Math.min(steps, evaluation, checkpoint));
    if (session.signal.aborted || session.position >= steps) break;
    if (session.position === evaluation)
      yield await session.evaluate({ split: eval_split, microbatches: eval_microbatches });
    if (session.position === checkpoint) await session.checkpoint();
  }
  if (!session.signal.aborted) yield await session.evaluate({ split: eval_split, microbatches: null });
  if (session.saved !== session.position) await session.checkpoint();
}

/** `scheduler: {name: sync}`, the default. */
export const sync: Scheduler<Record<string, never>> = { name: 'sync', config: z.strictObject({}), run };
