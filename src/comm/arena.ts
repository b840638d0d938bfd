import { threadId } from 'node:worker_threads';
import { wasm } from '../tensor/index.ts';
import { DeskProgress, progressWords } from './desk-progress.ts';
import { type SumPlan, sumInPlace } from './room-sum.ts';
import { type Kernels, kernelsFor, wasmMemory } from './sum-kernel.ts';

const { PAGE_BYTES } = wasm;
type WasmMemory = wasm.WasmMemory;

/*
 * An arena is memory that all ranks of a world share because they are threads of one process. Its first page says in which
 * thread each rank is. Then come desks, one for each rank that may lead a reduction: a page of words and flags, and room
 * for partial sums. Word 0 of a desk is its bell, which is counted up when there may be something to do; word 16 says how
 * many members have not left the reduction under way, word 32 the how-many-eth it is (odd while that is being written), and
 * word 33 how long its name is, in bytes. Its figures begin at word 34. Word 48 counts those who wait for a member by name. From
 * word 64 on it says how far the blocks are.
 */
const BELL = 0;
const PRESENT = 16;
const TURN = 32;
const NAME_BYTES = 33;
const FIGURES = 34;
const ATTENDING = 48;
const PROGRESS = 64;
const NAME_AT = 8192;
const FLAGS_AT = 12_288;
/** Larger groups do not meet here. */
const MEMBERS = 32;
const FLAGS_BYTES = PAGE_BYTES - FLAGS_AT;

/** Room for partial sums on a desk, in bytes: what the caches of a few cores hold together. */
const ROOM_BYTES = 8 * 2 ** 20;
/** Room for intermediate sums of each member, in bytes: what its core's first cache holds. */
const LAP_BYTES = 65_536;
const DESK_BYTES = PAGE_BYTES + ROOM_BYTES + MEMBERS * LAP_BYTES;
/** Ranks after these cannot lead a reduction here. (Memory is taken from the system only where a desk is used.) */
const DESKS = 32;

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
  /** By leader: the last turn of its desk that this rank took part in. */
  readonly #turns: number[] = [];

  constructor(memory: WasmMemory, rank: number) {
    this.#memory = memory;
    this.#threads = new Int32Array(memory.buffer, 0, PAGE_BYTES / 4);
    Atomics.store(this.#threads, rank, threadId + 1);
  }

  /** The desk of reductions that a rank leads; null where there is none for it, or not room enough. */
  desk(leader: number, members: number, name: Uint8Array, flags: number): Desk | null {
    const at = PAGE_BYTES + leader * DESK_BYTES;
    if (at + DESK_BYTES > this.#memory.buffer.byteLength || members > MEMBERS) return null;
    if (name.length > FLAGS_AT - NAME_AT || flags > FLAGS_BYTES) return null;
    this.#kernels ??= kernelsFor(this.#memory);
    return new Desk(this.#memory.buffer, at, members, this.#kernels, {
      last: () => this.#turns[leader] ?? 0,
      joined: (turn) => {
        this.#turns[leader] = turn;
      },
    });
  }

  /** Whether this thread may sleep while it waits for other ranks: not if one of them is in this thread too. */
  maySleep(me: number, ranks: readonly number[]): boolean {
    return !ranks.some((rank) => rank !== me && Atomics.load(this.#threads, rank) === threadId + 1);
  }
}

/** What a rank remembers of a desk. */
interface Turns {
  /** The last turn that it took part in. */
  last(): number;
  joined(turn: number): void;
}

/** Where the members of a group meet for a reduction. */
export class Desk {
  static readonly roomBytes = ROOM_BYTES;
  /** The room as numbers. */
  readonly room: Float32Array;
  /** What members say of their partial sums. */
  readonly flags: Uint8Array;
  /** How far the blocks of the reduction are. */
  readonly progress: DeskProgress;
  readonly #kernels: Kernels;
  readonly #roomAt: number;
  readonly #words: Int32Array;
  readonly #name: Uint8Array;
  readonly #members: number;
  readonly #turns: Turns;

  constructor(memory: ArrayBufferLike, at: number, members: number, kernels: Kernels, turns: Turns) {
    this.#members = members;
    this.#turns = turns;
    this.#roomAt = at + PAGE_BYTES;
    this.room = new Float32Array(memory, this.#roomAt, ROOM_BYTES / 4);
    this.flags = new Uint8Array(memory, at + FLAGS_AT, FLAGS_BYTES);
    this.#kernels = kernels;
    this.#words = new Int32Array(memory, at, NAME_AT / 4);
    this.#name = new Uint8Array(memory, at + NAME_AT, FLAGS_AT - NAME_AT);
    // (A slice for each member.)
    const progress = this.#words.subarray(PROGRESS, PROGRESS + progressWords(members));
    this.progress = new DeskProgress(progress, members, members, (far) => {
      // Who waits by name must hear of each step: that member may have taken its last one and be gone.
      if (far || Atomics.load(this.#words, ATTENDING) > 0) this.#ring();
    });
  }

  /** Takes the desk for a reduction, if nobody is at it any more. Only its leader does that, for all members. */
  claim(name: Uint8Array, figures: readonly number[]): boolean {
    const words = this.#words;
    if (Atomics.load(words, PRESENT) > 0) return false;
    const turn = Atomics.add(words, TURN, 1) + 2;
    this.#name.set(name);
    words[NAME_BYTES] = name.length;
    words.set(figures, FIGURES);
    this.progress.reset();
    Atomics.store(words, TURN, turn);
    Atomics.store(words, PRESENT, this.#members);
    this.#ring();
    return true;
  }

  /** The figures of the reduction of this name, if its leader has claimed the desk for it; to be joined once. */
  join(name: Uint8Array, figures: number): number[] | null {
    const words = this.#words;
    const turn = Atomics.load(words, TURN);
    if (turn === this.#turns.last() || Atomics.load(words, PRESENT) === 0) return null;
    if (words[NAME_BYTES] !== name.length || name.some((byte, i) => byte !== this.#name[i])) return null;
    const found = [...words.subarray(FIGURES, FIGURES + figures)];
    // If the leader has written meanwhile, what was read is of two reductions. (One of this name cannot end without this rank.)
    if ((turn & 1) === 1 || Atomics.load(words, TURN) !== turn) return null;
    this.#turns.joined(turn);
    return found;
  }

  /** A member is done with the reduction. */
  leave(): void {
    Atomics.sub(this.#words, PRESENT, 1);
    this.#ring();
  }

  /**
   * Sums up `length` numbers from each of several places in the room and puts the sum at `target`, one of these.
   * @param placeOf by number of an operand: where in the room it is
   * @param member whose room is used for intermediate sums
   */
  sum(member: number, plan: SumPlan, placeOf: (operand: number) => number, target: number, length: number): void {
    const lapAt = this.#roomAt + ROOM_BYTES + member * LAP_BYTES;
    const addressOf = (operand: number) => this.#roomAt + 4 * placeOf(operand);
    const laps = { lapAt, lapBytes: LAP_BYTES };
    sumInPlace(this.#kernels, plan, addressOf, this.#roomAt + 4 * target, length, laps);
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

  /** Has the bell rung at each step of any member, from now on until the function that it returns is called. */
  attend(): () => void {
    Atomics.add(this.#words, ATTENDING, 1);
    return () => Atomics.sub(this.#words, ATTENDING, 1);
  }

  #ring(): void {
    Atomics.add(this.#words, BELL, 1);
    Atomics.notify(this.#words, BELL);
  }
}
