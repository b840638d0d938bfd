import { addArrays, splitPoint } from '../../comm/index.ts';

/**
 * Adds vectors up in the canonical pairwise tree over their positions, as they come: only about log2 n of them are held at a
 * time, and the sum has the bits of the whole tree. A part may be the sum of an aligned run of positions that was added up
 * elsewhere.
 */
export class RunningTreeSum {
  readonly #size: number;
  readonly #free: Float32Array[];
  /** Sums of complete subtrees, leftmost first; what comes next begins where the last one ends. */
  readonly #nodes: { start: number; end: number; sum: Float32Array | null }[] = [];

  /**
   * @param size positions in all
   * @param free takes vectors whose values have been added and whose memory may be used again
   */
  constructor(size: number, free: Float32Array[] = []) {
    this.#size = size;
    this.#free = free;
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
      this.#nodes.push({ start: left.start, end: right.end, sum: added(left.sum, right.sum) });
      if (left.sum && right.sum) this.#free.push(right.sum);
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

function added(left: Float32Array | null, right: Float32Array | null): Float32Array | null {
  if (!left) return right;
  if (right) addArrays(left, left, right);
  return left;
}

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
