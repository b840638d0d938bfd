import { setTimeout as sleep } from 'node:timers/promises';

/** Waits for something to happen, and is told when something has. */
export class Waker {
  readonly #signal: AbortSignal;
  readonly #waiting = new Set<() => void>();

  /** @param signal ends every wait with its reason */
  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  /** Something has happened. */
  wake(): void {
    for (const resolve of this.#waiting) resolve();
    this.#waiting.clear();
  }

  /** @throws the signal's reason, if it was raised */
  throwIfEnded(): void {
    this.#signal.throwIfAborted();
  }

  /** Waits until something has happened, but not longer than `ms`. */
  async change(ms: number): Promise<void> {
    this.#signal.throwIfAborted();
    await new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#waiting.delete(done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      this.#waiting.add(done);
    });
    this.#signal.throwIfAborted();
  }

  /** Waits for `ms`, whatever happens. */
  async pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#signal }).catch((error: unknown) => {
      throw this.#signal.aborted ? this.#signal.reason : error;
    });
  }
}
