import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { WaitingData } from '../../worker/index.ts';

/** How many threads may load while a run is prepared, so that a core is left for that. Under Deno none: its threads load no faster. */
export function threadsAtOnce(): number {
  return 'Deno' in globalThis ? 0 : availableParallelism() - 1;
}

/**
 * Worker threads that are started before there is a job for them: while data is read and the run is planned, they load their
 * modules.
 */
export class WaitingThreads {
  readonly #entry: URL;
  #count = 0;
  #atOnce = 0;
  #loading = 0;
  #workers: Worker[] = [];
  #ended: Promise<void> | null = null;
  /** One has failed, or they are handed over or ended. */
  #over = false;
  readonly #fails = (): void => {
    this.#over = true;
  };
  readonly #loaded = (): void => {
    this.#loading--;
    this.#startNext();
  };

  /**
   * @param atOnce how many may load at the same time; each of the others is started when one has loaded. Where there are no more
   *   cores than threads, one at a time leaves a core to whoever prepares the run
   */
  constructor(entry: URL, count: number, atOnce = count) {
    this.#entry = entry;
    this.grow(entry, count, atOnce);
  }

  /**
   * There are to be more of them. False, and nothing is changed, where others are wanted than these: what they run is another module,
   * they are too many already, one has failed, or they are gone.
   */
  grow(entry: URL, count: number, atOnce = count): boolean {
    if (this.#over || entry.href !== this.#entry.href || count < this.#workers.length) return false;
    this.#count = count;
    this.#atOnce = atOnce;
    this.#startNext();
    return true;
  }

  /**
   * Hands the threads over, each to be told its job by a message. Null where there are not as many, they run something else, or one
   * has failed: threads that are started anew then tell why.
   */
  take(entry: URL, count: number): readonly Worker[] | null {
    if (count !== this.#count || !this.grow(entry, count)) return null;
    const workers = this.#leave();
    for (const worker of workers)
      worker.off('message', this.#loaded).off('error', this.#fails).off('exit', this.#fails);
    return workers;
  }

  /** Ends those that nobody has taken. (They are told to: by force, one that is just loading native code would end the process.) */
  end(): Promise<void> {
    this.#ended ??= this.#end();
    return this.#ended;
  }

  async #end(): Promise<void> {
    const workers = this.#leave();
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

  #leave(): readonly Worker[] {
    const workers = this.#workers;
    this.#workers = [];
    this.#over = true;
    return workers;
  }

  #startNext(): void {
    while (!this.#over && this.#workers.length < this.#count && this.#loading < this.#atOnce) {
      const rank = this.#workers.length;
      const workerData: WaitingData = { rank };
      const worker = new Worker(this.#entry, { workerData, name: `plexus rank ${rank}` });
      // (The first thing that it says is that it has loaded.)
      worker.once('message', this.#loaded).on('error', this.#fails).on('exit', this.#fails);
      this.#workers.push(worker);
      this.#loading++;
    }
  }
}
