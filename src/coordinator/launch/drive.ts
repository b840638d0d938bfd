import type { RunEvent } from '../events.ts';
import { schedulerNamed } from '../scheduler.ts';
import type { RunSession } from './run-session.ts';

/**
 * Lets the config's scheduler drive a session to the end. Between its events come those about checkpoints, which are
 * written while training goes on; when this ends nothing is being written any more.
 * @throws CheckpointError if the last checkpoint of the run could not be written, or another one and
 * `train.checkpoint_on_error` says to stop then
 */
export async function* drive(session: RunSession): AsyncGenerator<RunEvent> {
  const { name, ...own } = session.config.scheduler;
  for await (const event of schedulerNamed(name).run(session, own)) {
    yield* session.news();
    session.checkStop();
    yield event;
  }
  await session.settle();
  const news = session.news();
  // That the last one failed is not something to go on after: it is the error that follows.
  yield* session.failed ? news.slice(0, -1) : news;
  if (session.failed) throw session.failed;
}
