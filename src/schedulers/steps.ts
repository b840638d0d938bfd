import type { RunEvent, Session } from '../coordinator/index.ts';

/** The first multiple of `every` after `position`, or infinity for 0 (never). */
function nextDue(position: number, every: number): number {
  return every === 0 ? Number.POSITIVE_INFINITY : (Math.floor(position / every) + 1) * every;
}

/**
 * Runs all steps of a session, evaluates and checkpoints when they are due and at the end; when interrupted, finishes the
 * step and checkpoints. Evaluations take place at the end of a round of so many steps: the first one that is not before
 * they are due.
 */
export async function* trainSteps(session: Session, round = 1): AsyncGenerator<RunEvent> {
  const { steps, eval_every, eval_split, eval_microbatches, checkpoint_every } = session.config.train;
  const atRoundEnd = (step: number): number => Math.ceil(step / round) * round;
  let evaluated = session.position;
  while (session.position < steps && !session.signal.aborted) {
    // Ranks work ahead of the coordinator, so they are let run only up to the next point where all must meet.
    const evaluation = atRoundEnd(nextDue(evaluated, eval_every));
    const checkpoint = nextDue(session.position, checkpoint_every);
    yield* session.steps(Math.min(steps, evaluation, checkpoint));
    if (session.signal.aborted || session.position >= steps) break;
    if (session.position === evaluation) {
      yield await session.evaluate({ split: eval_split, microbatches: eval_microbatches });
      evaluated = session.position;
    }
    if (session.position === checkpoint) await session.checkpoint();
  }
  if (!session.signal.aborted) yield await session.evaluate({ split: eval_split, microbatches: null });
  if (session.saved !== session.position) await session.checkpoint();
}
