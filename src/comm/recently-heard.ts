/** What is known of each of those that were heard of lately; of more than `limit`, who was not heard for longest is forgotten. */
export class RecentlyHeard<T> {
  readonly #known = new Map<string, T>();
  readonly #limit: number;
  readonly #first: (floor: number) => T;

  /** @param first what is known of somebody new, whose first word comes with this floor */
  constructor(limit: number, first: (floor: number) => T) {
    this.#limit = limit;
    this.#first = first;
  }

  /** What is known of whoever has just been heard. */
  of(who: string, floor: number): T {
    const found = this.#known.get(who) ?? this.#first(floor);
    // Maps keep the order in which keys came.
    this.#known.delete(who);
    this.#known.set(who, found);
    if (this.#known.size > this.#limit) this.#known.delete(this.#known.keys().next().value as string);
    return found;
  }

  /** Forgets all. */
  clear(): void {
    this.#known.clear();
  }
}
