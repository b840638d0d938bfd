import { threadId } from 'node:worker_threads';
import { type Kernels, kernelsFor, PAGE_BYTES, type WasmMemory, wasmMemory } from './sum-kernel.ts';

/*
 * An arena is memory that all ranks of a world share because they are threads of one process. Its first page says in which
 * thread each rank is. Then come desks, one for each rank that may lead a reduction: a page of words and flags, and room
 * for partial sums. Word 0 of a desk is its bell, which is counted up with each progress; word 16 says how many members
 * have not left the reduction under way. From word 64 on, each member has a cache line with three counts.
 */
const BELL = 0;
const PRESENT = 16;
const COUNTS = 64;
const COUNTS_STEP = 16;
const FLAGS_AT = 8192;
const MEMBERS = (FLAGS_AT / 4 - COUNTS) / COUNTS_STEP;
const FLAGS_BYTES = PAGE_BYTES - FLAGS_AT;

/** Room for partial sums on a desk, in bytes: what the caches of a few cores hold together. */
const ROOM_BYTES = 8 * 2 ** 20;
const DESK_BYTES = PAGE_BYTES + ROOM_BYTES;
/** Ranks after these cannot lead a reduction here. (Memory is taken from the system only where a desk is used.) */
const DESKS = 32;

/** How far a member has come with the blocks of a reduction: put on the desk, summed up, taken from it. */
export type Stage = 'put' | 'summed' | 'taken';
const STAGES: readonly Stage[] = ['put', 'summed', 'taken'];

/** `Atomics.waitAsync`, which the types of the language do not have yet. */
type WaitAsync = (words: Int32Array, index: number, value: number) => { readonly value: string | Promise<string> };
const { waitAsync } = Atomics as unknown as { readonly waitAsync?: WaitAsync };

/** Memory for an arena of so many ranks, to be posted to their threads; null where that is not to be had. */
export function arenaMemory(world: number): WasmMemory | null {
  if (world < 2 || !waitAsync) return null;
  return wasmMemory(1 + (Math.min(world, DESKS) * DESK_BYTES) / PAGE_BYTES, true);
}

/** A rank's view of an arena. */
export class Arena {
  readonly #memory: WasmMemory;
  readonly #threads: Int32Array;
  #kernels: Kernels | null = null;

  constructor(memory: WasmMemory, rank: number) {
    this.#memory = memory;
    this.#threads = new Int32Array(memory.buffer, 0, PAGE_BYTES / 4);
    Atomics.store(this.#threads, rank, threadId + 1);
  }

  /** The desk of reductions that a rank leads; null where there is none for it, or not room enough. */
  desk(leader: number, members: number, flags: number): Desk | null {
    const at = PAGE_BYTES + leader * DESK_BYTES;
    if (at + DESK_BYTES > this.#memory.buffer.byteLength || members > MEMBERS || flags > FLAGS_BYTES) return null;
    this.#kernels ??= kernelsFor(this.#memory);
    return new Desk(this.#memory.buffer, at, this.#kernels);
  }

  /** Whether this thread may sleep while it waits for other ranks: not if one of them is in this thread too. */
  maySleep(me: number, ranks: readonly number[]): boolean {
    return !ranks.some((rank) => rank !== me && Atomics.load(this.#threads, rank) === threadId + 1);
  }
}

/** Where the members of a group meet for a reduction. */
export class Desk {
  /** Bytes of room for partial sums; the first one's address for `add`. */
  static readonly roomBytes = ROOM_BYTES;
  readonly roomAt: number;
  /** The room as numbers. */
  readonly room: Float32Array;
  /** What members say of their partial sums. */
  readonly flags: Uint8Array;
  readonly add: Kernels['add'];
  readonly #words: Int32Array;

  constructor(memory: ArrayBufferLike, at: number, kernels: Kernels) {
    this.roomAt = at + PAGE_BYTES;
    this.room = new Float32Array(memory, this.roomAt, ROOM_BYTES / 4);
    this.flags = new Uint8Array(memory, at + FLAGS_AT, FLAGS_BYTES);
    this.add = kernels.add;
    this.#words = new Int32Array(memory, at, FLAGS_AT / 4);
  }

  /** Takes the desk for a reduction of so many members, if nobody is at it any more. Only its leader does that. */
  claim(members: number): boolean {
    const words = this.#words;
    if (Atomics.load(words, PRESENT) > 0) return false;
    for (let member = 0; member < members; member++)
      for (const stage of STAGES) Atomics.store(words, wordOf(member, stage), 0);
    Atomics.store(words, PRESENT, members);
    return true;
  }

  /** A member is done with the reduction. */
  leave(): void {
    Atomics.sub(this.#words, PRESENT, 1);
    this.#ring();
  }

  /** Blocks that a member has behind it. */
  count(member: number, stage: Stage): number {
    return Atomics.load(this.#words, wordOf(member, stage));
  }

  /** Says how many blocks a member has behind it now. */
  advance(member: number, stage: Stage, count: number): void {
    Atomics.store(this.#words, wordOf(member, stage), count);
    this.#ring();
  }

  /** What the bell says now: to be read before one looks whether there is something to do, and waited for if not. */
  bell(): number {
    return Atomics.load(this.#words, BELL);
  }

  /** Sleeps until the bell says something else than `heard`, or for so long. Returns whether it does. */
  sleep(heard: number, ms: number): boolean {
    return Atomics.wait(this.#words, BELL, heard, ms) !== 'timed-out';
  }

  /** Resolves when the bell says something else than `heard`. */
  async rung(heard: number): Promise<void> {
    await waitAsync?.(this.#words, BELL, heard).value;
  }

  #ring(): void {
    Atomics.add(this.#words, BELL, 1);
    Atomics.notify(this.#words, BELL);
  }
}

function wordOf(member: number, stage: Stage): number {
  return COUNTS + member * COUNTS_STEP + STAGES.indexOf(stage);
}
