import { workerEntryUrl } from '../worker/index.ts';
import { threadsAtOnce, WaitingThreads } from './launch/index.ts';

/**
 * Starts a worker thread before so much as the config has been read (or the code that reads it), of the kind that most runs use:
 * `RunOptions.begun` makes of it what the run needs. It takes 150 ms to load, on a core that has nothing else to do. Null where no
 * core would be left for the preparation. Whoever calls this calls `end` in the end.
 */
export function startFirstThread(): WaitingThreads | null {
  return threadsAtOnce() < 1 ? null : new WaitingThreads(workerEntryUrl(), 1);
}
