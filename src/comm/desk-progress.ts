/** Blocks that may be on a desk at a time: members need not keep step exactly, and each turn of a place costs a core some waiting. */
export const DEPTH = 2;

/** Words of a cache line. */
const LINE = 16;
/** The first word: slices that members have claimed. Then come a line for each place and one for each member. */
const CLAIMED = 0;
/**
 * Words of a place on the desk: members that have put their part of its blocks there, slices summed up, members that have taken
 * sums. A member's line says in the first and the last how many blocks it has behind it itself, and in `SUMMING` which slice it
 * sums up, counted from 1.
 */
const [PUT, SUMMED, TAKEN, SUMMING] = [0, 1, 2, 3];

/** What a member does with a block. */
export type Stage = 'put' | 'summed' | 'taken';

/** Int32 words that the progress of a reduction of so many members takes. */
export function progressWords(members: number): number {
  return LINE * (1 + DEPTH + members);
}

/**
 * How far the blocks of a reduction are, in memory that all members share. A block has a place on the desk (several take turns
 * at it), to which each member puts its part. Once all have, whoever comes first sums up slice after slice of the block, so that
 * none waits for a thread that has no core just then; once all slices are summed up, each member takes the sums, and once all
 * have, the next block may come. What is counted of a place only grows, so that one look tells how far a block is.
 */
export class DeskProgress {
  readonly #words: Int32Array;
  readonly #members: number;
  readonly #slices: number;
  readonly #changed: (far: boolean) => void;

  /**
   * @param words `progressWords` of them, from a cache line's begin
   * @param slices of a block
   * @param changed called after each step; `far` if others may go on because of it
   */
  constructor(words: Int32Array, members: number, slices: number, changed: (far: boolean) => void) {
    this.#words = words;
    this.#members = members;
    this.#slices = slices;
    this.#changed = changed;
  }

  /** For the next reduction; nobody may be at the last one. */
  reset(): void {
    for (let i = 0; i < this.#words.length; i++) Atomics.store(this.#words, i, 0);
  }

  /** Whether all members have taken what was at the place of this block before it. */
  isFree(block: number): boolean {
    return this.#count(block, TAKEN) >= this.#members * roundOf(block);
  }

  /** Whether all members have put their part of this block. */
  isPut(block: number): boolean {
    return this.#count(block, PUT) >= this.#members * (roundOf(block) + 1);
  }

  /** Whether all slices of this block are summed up. */
  isSummed(block: number): boolean {
    return this.#count(block, SUMMED) >= this.#slices * (roundOf(block) + 1);
  }

  /** A member has put its part of this block. */
  put(member: number, block: number): void {
    this.#step(member, block, PUT);
  }

  /** A member has taken the sums of this block. */
  taken(member: number, block: number): void {
    this.#step(member, block, TAKEN);
  }

  /** The next slice that nobody sums up yet, for this member to do so, counted from the first block's first; null if there is none. */
  claim(member: number): number | null {
    const words = this.#words;
    for (;;) {
      const next = Atomics.load(words, CLAIMED);
      if (!this.isPut(Math.floor(next / this.#slices))) return null;
      if (Atomics.compareExchange(words, CLAIMED, next, next + 1) !== next) continue;
      Atomics.store(words, this.#line(member) + SUMMING, next + 1);
      return next;
    }
  }

  /** A slice of this block is summed up. */
  summed(block: number): void {
    const count = Atomics.add(this.#words, placeOf(block) + SUMMED, 1) + 1;
    this.#changed(count % this.#slices === 0);
  }

  /** The member that is the last to put its blocks or take them, or was a moment ago. */
  last(stage: Exclude<Stage, 'summed'>): number {
    const word = stage === 'put' ? PUT : TAKEN;
    let [last, least] = [0, Number.POSITIVE_INFINITY];
    for (let member = 0; member < this.#members; member++) {
      const count = Atomics.load(this.#words, this.#line(member) + word);
      if (count < least) [last, least] = [member, count];
    }
    return last;
  }

  /** Who keeps a member that has put and taken so many blocks and can do nothing now (maybe itself, a moment ago), and with what. */
  late(me: number, put: number, taken: number): readonly [member: number, stage: Stage] {
    if (put === taken) return [this.last('taken'), 'taken'];
    if (!this.isPut(taken)) return [this.last('put'), 'put'];
    for (let member = 0; member < this.#members; member++) {
      const slice = Atomics.load(this.#words, this.#line(member) + SUMMING) - 1;
      if (member !== me && Math.floor(slice / this.#slices) === taken) return [member, 'summed'];
    }
    return [me, 'summed'];
  }

  #step(member: number, block: number, word: number): void {
    Atomics.store(this.#words, this.#line(member) + word, block + 1);
    const count = Atomics.add(this.#words, placeOf(block) + word, 1) + 1;
    this.#changed(count % this.#members === 0);
  }

  #count(block: number, word: number): number {
    return Atomics.load(this.#words, placeOf(block) + word);
  }

  #line(member: number): number {
    return LINE * (1 + DEPTH + member);
  }
}

/** How many blocks were at the place of this one before it. */
function roundOf(block: number): number {
  return Math.floor(block / DEPTH);
}

function placeOf(block: number): number {
  return LINE * (1 + (block % DEPTH));
}
