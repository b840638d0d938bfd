/** Few: an engine that has seen a table grow before it compiles the loop around it need not compile that again. */
const FIRST_SLOTS = 16;

/**
 * A whole number from 1 to 2^32 - 1 for each of some pairs of whole numbers, 0 for all others. An open-addressing hash
 * table in typed arrays: takes memory for the pairs that there are, however large the numbers, and makes no objects.
 */
export class PairTable {
  /** Number of pairs. */
  size = 0;
  // Of each slot; a value of 0 marks a free one. At least half of them are.
  private lefts: Int32Array = new Int32Array(FIRST_SLOTS);
  private rights: Int32Array = new Int32Array(FIRST_SLOTS);
  private values: Uint32Array = new Uint32Array(FIRST_SLOTS);

  get(left: number, right: number): number {
    return this.values[this.slotOf(left, right)] as number;
  }

  /** Sets the value of a pair, which is not 0. */
  set(left: number, right: number, value: number): void {
    const slot = this.slotOf(left, right);
    if (this.values[slot] !== 0) this.values[slot] = value;
    else this.insert(slot, left, right, value);
  }

  /** Adds one to the value of a pair. */
  increment(left: number, right: number): void {
    const slot = this.slotOf(left, right);
    const value = this.values[slot] as number;
    if (value !== 0) this.values[slot] = value + 1;
    else this.insert(slot, left, right, 1);
  }

  /** Calls back with each pair and its value, in no particular order. */
  forEach(visit: (left: number, right: number, value: number) => void): void {
    const { lefts, rights, values } = this;
    for (let slot = 0; slot < values.length; slot++)
      if (values[slot] !== 0) visit(lefts[slot] as number, rights[slot] as number, values[slot] as number);
  }

  /** The slot that holds a pair, or the free one where it belongs. */
  private slotOf(left: number, right: number): number {
    const { lefts, rights, values } = this;
    const mask = values.length - 1;
    const hash = Math.imul(Math.imul(left, 0x9e3779b1) + right, 0x85ebca6b);
    let slot = (hash ^ (hash >>> 15)) & mask;
    while (values[slot] !== 0 && (rights[slot] !== right || lefts[slot] !== left)) slot = (slot + 1) & mask;
    return slot;
  }

  private insert(slot: number, left: number, right: number, value: number): void {
    this.lefts[slot] = left;
    this.rights[slot] = right;
    this.values[slot] = value;
    this.size += 1;
    if (2 * this.size > this.values.length) this.grow();
  }

  private grow(): void {
    const { lefts, rights, values } = this;
    this.lefts = new Int32Array(2 * lefts.length);
    this.rights = new Int32Array(2 * lefts.length);
    this.values = new Uint32Array(2 * lefts.length);
    for (let old = 0; old < values.length; old++) {
      if (values[old] === 0) continue;
      const slot = this.slotOf(lefts[old] as number, rights[old] as number);
      this.lefts[slot] = lefts[old] as number;
      this.rights[slot] = rights[old] as number;
      this.values[slot] = values[old] as number;
    }
  }
}
