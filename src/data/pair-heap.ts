/**
 * Max-heap of pairs by count; equal counts go to the smaller key, so that training is deterministic. Entries are not
 * updated: one whose count is no longer true comes out all the same, and is the caller's to put back.
 */
export class PairHeap {
  private readonly counts: number[] = [];
  private readonly keys: number[] = [];
  private readonly pairs: number[] = [];

  push(count: number, key: number, pair: number): void {
    let at = this.counts.length;
    this.counts.push(count);
    this.keys.push(key);
    this.pairs.push(pair);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.before(at, parent)) break;
      this.swap(at, parent);
      at = parent;
    }
  }

  /** Takes out the first pair, with the count and the key that it was put in with. */
  pop(): { count: number; key: number; pair: number } | null {
    if (this.counts.length === 0) return null;
    const last = this.counts.length - 1;
    this.swap(0, last);
    const count = this.counts.pop() as number;
    const key = this.keys.pop() as number;
    const pair = this.pairs.pop() as number;
    for (let at = 0; ; ) {
      const left = 2 * at + 1;
      if (left >= last) break;
      const best = left + 1 < last && this.before(left + 1, left) ? left + 1 : left;
      if (!this.before(best, at)) break;
      this.swap(at, best);
      at = best;
    }
    return { count, key, pair };
  }

  private before(a: number, b: number): boolean {
    const difference = (this.counts[a] as number) - (this.counts[b] as number);
    return difference !== 0 ? difference > 0 : (this.keys[a] as number) < (this.keys[b] as number);
  }

  private swap(a: number, b: number): void {
    const { counts, keys, pairs } = this;
    const count = counts[a] as number;
    const key = keys[a] as number;
    const pair = pairs[a] as number;
    counts[a] = counts[b] as number;
    keys[a] = keys[b] as number;
    pairs[a] = pairs[b] as number;
    counts[b] = count;
    keys[b] = key;
    pairs[b] = pair;
  }
}
