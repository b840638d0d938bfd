import { Worker } from 'node:worker_threads';
import { WAITS } from '../../worker/index.ts';

/**
 * Worker threads that are started before there is a job for them: while data is read and the run is planned, they load their
 * modules.
 */
export class WaitingThreads {
  readonly #entry: URL;
  readonly #count: number;
  #workers: Worker[] = [];
  #failed = false;
  readonly #fails = (): void => {
    this.#failed = true;
  };
  readonly #loaded = (): void => {
    if (this.#workers.length < this.#count && !this.#failed) this.#start();
  };

  /**
   * @param atOnce how many may load at the same time; each of the others is started when one has loaded. Where there are no more
   *   cores than threads, one at a time leaves a core to whoever prepares the run
   */
  constructor(entry: URL, count: number, atOnce = count) {
    this.#entry = entry;
    this.#count = count;
    while (this.#workers.length < Math.min(count, atOnce)) this.#start();
  }

  /**
   * Hands the threads over, each to be told its job by a message. Null where there are not as many, they run something else, or one
   * has failed: threads that are started anew then tell why.
   */
  take(entry: URL, count: number): readonly Worker[] | null {
    if (this.#failed || entry.href !== this.#entry.href || count !== this.#count || this.#workers.length === 0)
      return null;
    while (this.#workers.length < count) this.#start();
    const workers = this.#workers;
    this.#workers = [];
    for (const worker of workers)
      worker.off('message', this.#loaded).off('error', this.#fails).off('exit', this.#fails);
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
            worker.off('message', this.#loaded);
            if (worker.threadId === -1) resolve();
            worker.once('exit', () => resolve());
            worker.postMessage(null);
          }),
      ),
    );
  }

  #start(): void {
    const worker = new Worker(this.#entry, { workerData: WAITS, name: `plexus rank ${this.#workers.length}` });
    // (The first thing that it says is that it has loaded.)
    worker.once('message', this.#loaded).on('error', this.#fails).on('exit', this.#fails);
    this.#workers.push(worker);
  }
}
