import type { RunEvent } from '../events.ts';

/** Events that come about beside a run's own, for the same reader. */
export class SideEvents {
  #events: RunEvent[] = [];
  #wake: () => void = () => undefined;

  push(event: RunEvent): void {
    this.#events.push(event);
    this.#wake();
  }

  /** All that there are, in order. */
  take(): RunEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }

  /** Resolves when there are some. */
  some(): Promise<void> {
    if (this.#events.length > 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}

/**
 * A run's events with those beside it, as they come. If the reader stops, `stop` ends whatever the run waits for before the
 * run itself is ended.
 */
export async function* interleave(
  run: AsyncGenerator<RunEvent, void>,
  side: SideEvents,
  stop: () => Promise<void>,
): AsyncGenerator<RunEvent, void> {
  let next: Promise<IteratorResult<RunEvent, void>> | null = null;
  let ended = false;
  try {
    for (;;) {
      yield* side.take();
      next ??= run.next();
      const result = await Promise.race([next, side.some()]);
      if (!result) continue;
      next = null;
      yield* side.take();
      if (result.done) {
        ended = true;
        return;
      }
      yield result.value;
    }
  } catch (error) {
    ended = true;
    throw error;
  } finally {
    if (!ended) {
      await stop();
      await next?.catch(() => undefined);
      await run.return();
    }
  }
}
