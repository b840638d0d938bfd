import { addArrays, splitPoint } from '../../../comm/index.ts';

/**
 * Adds vectors up in the canonical pairwise tree over their positions, in whatever order they come: two neighbours are added as
 * soon as both are there. The sum has the bits of `RunningTreeSum`, which takes them in order.
 */
export class GatheredSum {
  readonly #size: number;
  /** Complete nodes whose sibling is not, by their range. */
  readonly #nodes = new Map<string, Float32Array | null>();
  readonly #come = new Set<number>();

  /** @param size positions in all */
  constructor(size: number) {
    this.#size = size;
  }

  /** Takes the vector of a position, null for one that is absent. Its memory is used for sums. @throws RangeError on a second one */
  add(position: number, part: Float32Array | null): void {
    if (!Number.isInteger(position) || position < 0 || position >= this.#size)
      throw new RangeError(`there is no position ${position} among ${this.#size}`);
    if (this.#come.has(position)) throw new RangeError(`position ${position} has come already`);
    this.#come.add(position);
    let sum = part;
    for (const { own, sibling, left } of this.#way(position)) {
      if (!this.#nodes.has(sibling)) {
        this.#nodes.set(own, sum);
        return;
      }
      const other = this.#nodes.get(sibling) ?? null;
      this.#nodes.delete(sibling);
      const [a, b] = left ? [sum, other] : [other, sum];
      if (a && b) addArrays(a, a, b);
      sum = a ?? b;
    }
    this.#nodes.set('all', sum);
  }

  /** The sum of all positions, or null if all were absent. @throws RangeError if some have not come */
  total(): Float32Array | null {
    if (this.#size === 0) return null;
    if (this.#come.size !== this.#size)
      throw new RangeError(`only ${this.#come.size} of ${this.#size} positions have been added`);
    return this.#nodes.get('all') ?? null;
  }

  /** Nodes from a leaf up to below the root, each with its sibling. */
  #way(position: number): { own: string; sibling: string; left: boolean }[] {
    const way: { own: string; sibling: string; left: boolean }[] = [];
    let [low, high] = [0, this.#size];
    while (high - low > 1) {
      const middle = splitPoint(low, high);
      const [first, second] = [`${low} ${middle}`, `${middle} ${high}`];
      const left = position < middle;
      way.push({ own: left ? first : second, sibling: left ? second : first, left });
      if (left) high = middle;
      else low = middle;
    }
    return way.reverse();
  }
}
