import { Worker } from 'node:worker_threads';
import { WAITS } from '../../worker/index.ts';

/**
 * Worker threads that are started before there is a job for them: while data is read and the run is planned, they load their
 * modules.
 */
export class WaitingThreads {
  readonly #entry: URL;
  #workers: readonly Worker[];
  #failed = false;
  readonly #fails = (): void => {
    this.#failed = true;
  };

  constructor(entry: URL, count: number) {
    this.#entry = entry;
    this.#workers = Array.from(
      { length: count },
      (_, rank) => new Worker(entry, { workerData: WAITS, name: `plexus rank ${rank}` }),
    );
    for (const worker of this.#workers) worker.on('error', this.#fails).on('exit', this.#fails);
  }

  /**
   * Hands the threads over, each to be told its job by a message. Null where there are not as many, they run something else, or one
   * has failed: threads that are started anew then tell why.
   */
  take(entry: URL, count: number): readonly Worker[] | null {
    const workers = this.#workers;
    if (this.#failed || entry.href !== this.#entry.href || count !== workers.length) return null;
    this.#workers = [];
    for (const worker of workers) worker.off('error', this.#fails).off('exit', this.#fails);
    return workers;
  }

  /** Ends those that nobody has taken. (They are told to: by force, one that is just loading native code would end the process.) */
  async end(): Promise<void> {
    const workers = this.#workers;
    this.#workers = [];
    await Promise.all(
      workers.map(
        (worker) =>
          new Promise<void>((resolve) => {
            if (worker.threadId === -1) resolve();
            worker.once('exit', () => resolve());
            worker.postMessage(null);
          }),
      ),
    );
  }
}
