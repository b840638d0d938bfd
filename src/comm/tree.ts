/** Half-open range of leaves (global microbatches). A range that is a node of the canonical tree names that node. */
export interface LeafRange {
  readonly start: number;
  readonly end: number;
}

/**
 * Where the canonical tree divides a node: the left child takes the largest power of two of leaves that is less than
 * the node's. (So ranges whose bounds are multiples of powers of two are single nodes.)
 */
export function splitPoint(start: number, end: number): number {
  const count = end - start;
  if (count < 2) throw new RangeError(`the tree node [${start}, ${end}) has no children`);
  return start + 2 ** Math.floor(Math.log2(count - 1));
}

/** The largest nodes of the canonical tree over `leaves` that lie inside `range`, from left to right. */
export function maximalNodes(range: LeafRange, leaves: number): LeafRange[] {
  const nodes: LeafRange[] = [];
  const visit = (start: number, end: number): void => {
    if (start >= range.end || end <= range.start || start >= end) return;
    if (start >= range.start && end <= range.end) {
      nodes.push({ start, end });
      return;
    }
    const middle = splitPoint(start, end);
    visit(start, middle);
    visit(middle, end);
  };
  visit(0, leaves);
  return nodes;
}

/** A pair of siblings that are both there: their sum belongs to `parent`. */
export interface Merge<T> {
  readonly parent: LeafRange;
  readonly left: T;
  readonly right: T;
}

/**
 * Sums values of the leaves of the canonical tree in the tree's order, whatever order they come in, holding at most
 * about log2(leaves) partial sums when they come in order. A leaf without a value is *absent*, which is the identity:
 * its sibling becomes the parent as it is. Absence is given by `null`.
 *
 * `offer` only says what to add, so that the addition may be asynchronous; `TreeSum` adds at once.
 */
export class TreeAccumulator<T> {
  readonly leaves: number;
  readonly #held = new Map<number, T | null>();

  constructor(leaves: number) {
    if (!Number.isInteger(leaves) || leaves < 1) throw new RangeError(`a tree needs at least one leaf, got ${leaves}`);
    this.leaves = leaves;
  }

  /**
   * Puts a node's value (a leaf's, or a sum that another rank made). Returns the pair to add next, if this completed
   * one; the caller must add it and offer the parent.
   * @throws RangeError if the range is no node of the tree or has been given before
   */
  offer(node: LeafRange, value: T | null): Merge<T> | null {
    let { start, end } = node;
    for (;;) {
      const family = this.#family(start, end);
      if (this.#held.has(this.#key(start, end)))
        throw new RangeError(`the tree node [${start}, ${end}) was given twice`);
      if (!family) {
        this.#held.set(this.#key(start, end), value);
        return null;
      }
      const siblingKey = this.#key(family.siblingStart, family.siblingEnd);
      const sibling = this.#held.get(siblingKey);
      if (sibling === undefined) {
        this.#held.set(this.#key(start, end), value);
        return null;
      }
      this.#held.delete(siblingKey);
      const siblingIsLeft = family.siblingStart < start;
      start = family.parentStart;
      end = family.parentEnd;
      if (value !== null && sibling !== null)
        return {
          parent: { start, end },
          left: siblingIsLeft ? sibling : value,
          right: siblingIsLeft ? value : sibling,
        };
      value = value ?? sibling;
    }
  }

  /** The partial sums held, from left to right; absent ones are left out. */
  nodes(): { readonly range: LeafRange; readonly value: T }[] {
    return [...this.#held]
      .flatMap(([key, value]) => {
        const start = Math.floor(key / (this.leaves + 1));
        return value === null ? [] : [{ range: { start, end: key % (this.leaves + 1) }, value }];
      })
      .sort((a, b) => a.range.start - b.range.start);
  }

  /** The sum of all leaves, or null if every leaf was absent. @throws RangeError if leaves are missing */
  total(): T | null {
    const value = this.#held.get(this.#key(0, this.leaves));
    if (value === undefined)
      throw new RangeError(`the tree over ${this.leaves} leaves is not complete: held are ${this.#describe()}`);
    return value;
  }

  clear(): void {
    this.#held.clear();
  }

  #key(start: number, end: number): number {
    return start * (this.leaves + 1) + end;
  }

  #describe(): string {
    const held = [...this.#held.keys()].map(
      (key) => `[${Math.floor(key / (this.leaves + 1))}, ${key % (this.leaves + 1)})`,
    );
    return held.length > 0 ? held.join(' ') : 'none';
  }

  /** Parent and sibling of a node, or null for the root. */
  #family(start: number, end: number) {
    let lo = 0;
    let hi = this.leaves;
    if (start === lo && end === hi) return null;
    while (hi - lo > 1) {
      const middle = splitPoint(lo, hi);
      if (start === lo && end === middle)
        return { parentStart: lo, parentEnd: hi, siblingStart: middle, siblingEnd: hi };
      if (start === middle && end === hi)
        return { parentStart: lo, parentEnd: hi, siblingStart: lo, siblingEnd: middle };
      if (start >= middle) lo = middle;
      else hi = middle;
    }
    throw new RangeError(`[${start}, ${end}) is not a node of the canonical tree over ${this.leaves} leaves`);
  }
}

/** A tree accumulator that adds at once. `add` may work in place and return either argument. */
export class TreeSum<T> {
  readonly #tree: TreeAccumulator<T>;
  readonly #add: (left: T, right: T) => T;

  constructor(leaves: number, add: (left: T, right: T) => T) {
    this.#tree = new TreeAccumulator(leaves);
    this.#add = add;
  }

  /** Puts the value of a leaf, or null for an absent one. */
  put(leaf: number, value: T | null): void {
    this.putNode({ start: leaf, end: leaf + 1 }, value);
  }

  putNode(node: LeafRange, value: T | null): void {
    let merge = this.#tree.offer(node, value);
    while (merge) merge = this.#tree.offer(merge.parent, this.#add(merge.left, merge.right));
  }

  nodes(): { readonly range: LeafRange; readonly value: T }[] {
    return this.#tree.nodes();
  }

  total(): T | null {
    return this.#tree.total();
  }
}

/** Sum of float32 numbers in the canonical tree, each addition rounded to float32. 0 for an empty list. */
export function treeSum(leaves: ArrayLike<number>): number {
  if (leaves.length === 0) return 0;
  const visit = (start: number, end: number): number => {
    if (end - start === 1) return Math.fround(leaves[start] as number);
    const middle = splitPoint(start, end);
    return Math.fround(visit(start, middle) + visit(middle, end));
  };
  return visit(0, leaves.length);
}
