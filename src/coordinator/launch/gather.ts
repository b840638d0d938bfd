import type { Ending } from '../ending.ts';

/** One answer of each rank to the same question, as they come in. */
interface Gather {
  readonly values: Map<number, unknown>;
  readonly promise: Promise<void>;
  readonly resolve: () => void;
}

function emptyGather(): Gather {
  let resolve = (): void => undefined;
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { values: new Map(), promise, resolve };
}

/** Collects what ranks answer, by the key of the question; an answer may come before anyone asks for it. */
export class Gathers {
  readonly #world: number;
  readonly #open = new Map<string, Gather>();
  /** What is being waited for: silence of a rank matters only while this is not empty. */
  readonly #awaited = new Set<Gather>();

  constructor(world: number) {
    this.#world = world;
  }

  /** Takes a rank's answer. */
  put(key: string, rank: number, value: unknown): void {
    const gather = this.#gather(key);
    gather.values.set(rank, value);
    if (gather.values.size === this.#world) gather.resolve();
  }

  /**
   * Waits for the answers of all ranks and returns them in order of ranks.
   * @param ending no answer will come any more after it
   * @throws the signal's reason when it is raised, or the error of the end
   */
  async all<T>(key: string, ending: Ending, signal?: AbortSignal): Promise<T[]> {
    const gather = this.#gather(key);
    this.#awaited.add(gather);
    let onAbort = (): void => undefined;
    const aborted = new Promise<never>((_, reject) => {
      onAbort = () => reject(signal?.reason);
      if (signal?.aborted) onAbort();
      signal?.addEventListener('abort', onAbort, { once: true });
    });
    try {
      await ending.before(signal ? Promise.race([gather.promise, aborted]) : gather.promise);
      return Array.from({ length: this.#world }, (_, rank) => gather.values.get(rank) as T);
    } finally {
      signal?.removeEventListener('abort', onAbort);
      this.#awaited.delete(gather);
      this.#open.delete(key);
    }
  }

  /** Whether someone waits for an answer of this rank. */
  awaits(rank: number): boolean {
    return [...this.#awaited].some((gather) => !gather.values.has(rank));
  }

  #gather(key: string): Gather {
    const gather = this.#open.get(key) ?? emptyGather();
    this.#open.set(key, gather);
    return gather;
  }
}
