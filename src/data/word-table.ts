import { grown } from './grown.ts';

/** Few: an engine that has seen a table grow before it compiles the loop around it need not compile that again. */
const FIRST_WORDS = 16;

/**
 * Numbers distinct words (short byte sequences) in the order in which they first come. An open-addressing hash table in
 * typed arrays: going over a text makes no object and no string for each of its words, which is most of the cost of a
 * `Map`.
 */
export class WordTable {
  /** Number of distinct words. */
  size = 0;
  /** The bytes of all words, one after another. */
  private bytes: Uint8Array = new Uint8Array(8 * FIRST_WORDS);
  /** Where each word begins in `bytes`, and, last, where the next one will. */
  private starts: Int32Array = new Int32Array(FIRST_WORDS + 1);
  private hashes: Int32Array = new Int32Array(FIRST_WORDS);
  /** Word number + 1 by hash, 0 where free; at least twice as many as words. */
  private slots: Int32Array = new Int32Array(2 * FIRST_WORDS);

  /**
   * The number of the word at `start` to `end` of `text`. A word that is not there is added, or gives -1 where there are
   * `limit` words.
   */
  numberOf(text: Uint8Array, start: number, end: number, limit: number): number {
    let hash = end - start;
    for (let i = start; i < end; i++) hash = Math.imul(hash ^ (text[i] as number), 0x01000193);
    // The multiplication carries only upwards, and the lowest bits choose the slot.
    hash ^= hash >>> 15;
    const mask = this.slots.length - 1;
    let slot = hash & mask;
    for (;;) {
      const word = (this.slots[slot] as number) - 1;
      if (word < 0) break;
      if (this.hashes[word] === hash && this.equals(word, text, start, end)) return word;
      slot = (slot + 1) & mask;
    }
    return this.size < limit ? this.add(text, start, end, hash, slot) : -1;
  }

  /** The bytes of all words, one after another. */
  allBytes(): Uint8Array {
    return this.bytes.subarray(0, this.starts[this.size]);
  }

  /** Where each word begins in `allBytes`, and, last, where they end. */
  allStarts(): Int32Array {
    return this.starts.subarray(0, this.size + 1);
  }

  private equals(word: number, text: Uint8Array, start: number, end: number): boolean {
    const { bytes } = this;
    const from = this.starts[word] as number;
    if ((this.starts[word + 1] as number) - from !== end - start) return false;
    for (let i = start, j = from; i < end; i++, j++) if (bytes[j] !== text[i]) return false;
    return true;
  }

  private add(text: Uint8Array, start: number, end: number, hash: number, slot: number): number {
    const word = this.size++;
    const from = this.starts[word] as number;
    const to = from + end - start;
    if (to > this.bytes.length) this.bytes = grown(this.bytes, 2 * to);
    if (word + 1 === this.starts.length) this.starts = grown(this.starts, 2 * word + 2);
    if (word === this.hashes.length) this.hashes = grown(this.hashes, 2 * word);
    for (let i = start, j = from; i < end; i++, j++) this.bytes[j] = text[i] as number;
    this.starts[word + 1] = to;
    this.hashes[word] = hash;
    this.slots[slot] = word + 1;
    if (2 * this.size > this.slots.length) this.rehash();
    return word;
  }

  private rehash(): void {
    const slots = new Int32Array(2 * this.slots.length);
    const mask = slots.length - 1;
    for (let word = 0; word < this.size; word++) {
      let slot = (this.hashes[word] as number) & mask;
      while (slots[slot] !== 0) slot = (slot + 1) & mask;
      slots[slot] = word + 1;
    }
    this.slots = slots;
  }
}
