/**
 * Something that may end for good while others wait for what it makes. (`Promise.race` with one promise that lives as long
 * as the run would keep the result of every step for as long.)
 */
export class Ending {
  readonly #waiting = new Set<(error: Error) => void>();
  #error: Error | null = null;

  /** Nothing will come any more: whoever waits now or later is told so. The first error counts. */
  end(error: Error): void {
    if (this.#error) return;
    this.#error = error;
    for (const reject of this.#waiting) reject(error);
    this.#waiting.clear();
  }

  /** What the promise gives. @throws what it rejects with, or the error of the end if that comes first */
  async before<T>(promise: Promise<T>): Promise<T> {
    let reject: (error: Error) => void = () => undefined;
    try {
      return await new Promise<T>((resolve, fail) => {
        reject = fail;
        promise.then(resolve, fail);
        // (After the promise's own turn: what is there already counts.)
        if (this.#error) Promise.reject(this.#error).catch(fail);
        else this.#waiting.add(fail);
      });
    } finally {
      this.#waiting.delete(reject);
    }
  }

  /** Never resolves. @throws the error of the end */
  wait(): Promise<never> {
    return this.before(new Promise<never>(() => undefined));
  }
}
