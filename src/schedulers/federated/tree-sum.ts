import { addArrays, splitPoint } from '../../comm/index.ts';
import type { SumMemory } from './update-arena.ts';

/**
 * Adds vectors up in the canonical pairwise tree over their positions, as they come: only about log2 n of them are held at a
 * time, and the sum has the bits of the whole tree. A part may be the sum of an aligned run of positions that was added up
 * elsewhere.
 */
export class RunningTreeSum {
  readonly #size: number;
  readonly #memory: SumMemory;
  /** Sums of complete subtrees, leftmost first; what comes next begins where the last one ends. */
  readonly #nodes: { start: number; end: number; sum: Float32Array | null }[] = [];

  /**
   * @param size positions in all
   * @param memory what vectors are of: it adds them, and takes back those whose values have been added
   */
  constructor(size: number, memory: SumMemory = plainMemory) {
    this.#size = size;
    this.#memory = memory;
  }

  /** Where the next part must begin. */
  get position(): number {
    return this.#nodes.at(-1)?.end ?? 0;
  }

  /**
   * Adds the sum of positions [position, end), which must be a node of the tree; null for one that is absent. The vector's
   * memory is used for sums.
   */
  add(end: number, part: Float32Array | null): void {
    this.#nodes.push({ start: this.position, end, sum: part });
    for (;;) {
      const [left, right] = this.#nodes.slice(-2);
      if (!left || !right || !isNode(left.start, right.end, left.end, this.#size)) return;
      this.#nodes.splice(-2);
      this.#nodes.push({ start: left.start, end: right.end, sum: left.sum ?? right.sum });
      if (!left.sum || !right.sum) continue;
      this.#memory.add(left.sum, right.sum);
      this.#memory.give(right.sum);
    }
  }

  /** The sum of all positions, or null if all were absent. @throws RangeError if some have not come */
  total(): Float32Array | null {
    const [root] = this.#nodes;
    if (this.#size === 0) return null;
    if (this.#nodes.length !== 1 || root?.end !== this.#size)
      throw new RangeError(`only ${this.position} of ${this.#size} positions have been added`);
    return root.sum;
  }
}

const plainMemory: SumMemory = { add: (left, right) => addArrays(left, left, right), give: () => undefined };

/** Whether [start, end) is a node of the tree over [0, size) whose children meet at `middle`. */
function isNode(start: number, end: number, middle: number, size: number): boolean {
  let [low, high] = [0, size];
  while (high - low > 1) {
    const split = splitPoint(low, high);
    if (low === start && high === end) return split === middle;
    if (end <= split) high = split;
    else if (start >= split) low = split;
    else return false;
  }
  return false;
}
