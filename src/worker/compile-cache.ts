/**
 * What the ranks of one thread have compiled of one model, optimizer and engine, by what it depends on: the mesh is not
 * among that, so that a rank which begins anew in another generation compiles only layers that the thread never had.
 */
export class CompileCache {
  readonly #made = new Map<string, unknown>();

  /** What `make` gives, made once for a key. What fails is made again the next time. */
  once<T>(key: string, make: () => T): T {
    if (this.#made.has(key)) return this.#made.get(key) as T;
    const made = make();
    this.#made.set(key, made);
    if (made instanceof Promise) made.catch(() => this.#made.delete(key));
    return made;
  }
}
