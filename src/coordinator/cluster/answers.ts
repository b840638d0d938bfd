/** One answer of each rank to a question, as they come in. Of a generation: made anew for the next one. */
export class Answers {
  readonly #world: number;
  readonly #open = new Map<string, Map<number, unknown>>();

  constructor(world: number) {
    this.#world = world;
  }

  /** Takes a rank's answer. Returns all of them, by rank, when it was the last; else null. */
  put<T>(key: string, rank: number, value: T): T[] | null {
    const known = this.#open.get(key) ?? new Map<number, unknown>();
    this.#open.set(key, known);
    known.set(rank, value);
    if (known.size < this.#world) return null;
    this.#open.delete(key);
    return Array.from({ length: this.#world }, (_, i) => known.get(i) as T);
  }
}
