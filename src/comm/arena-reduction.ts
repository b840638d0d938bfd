import { type Arena, Desk } from './arena.ts';
import { memberIndex } from './collectives.ts';
import { DEPTH } from './desk-progress.ts';
import { CommProtocolError } from './errors.ts';
import { planSum, type SumPlan } from './room-sum.ts';
import type { Group, Transport } from './transport.ts';
import { type LeafRange, maximalNodes } from './tree.ts';
import type { Share } from './tree-scatter.ts';
import { finishingSum, type OwnNodes, ownNodes, sumMemory, type TreeReduction } from './tree-units.ts';

/** Elements a piece has at most, unless it is said otherwise: half a megabyte, two of which a core's second cache holds. */
const MOST_PIECE = 2 ** 17;
/** With fewer elements a piece than this there would be more waiting than adding. */
const LEAST_PIECE = 1024;
/** How long a thread sleeps for the others, in milliseconds, before it looks after other things while it waits. */
const SLEEP_MS = 2;

/** What a transport offers whose ranks share an arena. */
export interface SharedArena {
  readonly arena: Arena;
  /** Waits for `until` in the place of a message of another rank's: with its deadline, its errors, its place in `pending`. */
  attend(from: number, tag: string, until: Promise<void>): Promise<void>;
  /** Counts bytes that went to other ranks, and came from them, without a message. */
  moved(bytesSent: number, bytesReceived: number): void;
}

/** Where a group meets, and how the data is cut there. */
interface Place {
  readonly shared: SharedArena;
  readonly desk: Desk;
  /** The reduction's name there: its tag, and who takes part. */
  readonly name: Uint8Array;
  /** Elements that a piece may have. */
  readonly limit: number;
  /** Of each member, by block. */
  readonly shares: readonly Share[];
}

/**
 * A reduction in the canonical tree among threads that share memory. Each member copies its partial sums to a desk, block by
 * block; slices of each block are added up there by whoever has time, and each copies the sums that it is to have from there.
 * Caches hold what is on the desk, so each partial sum is read from memory once, and each sum is written once.
 */
export class ArenaReduction {
  readonly #transport: Transport;
  readonly #group: Group;
  readonly #tag: string;
  readonly #reduction: TreeReduction;
  /** Of each member. */
  readonly #nodes: readonly (readonly LeafRange[])[];
  readonly #shared: SharedArena;
  readonly #desk: Desk;
  readonly #name: Uint8Array;
  readonly #limit: number;
  readonly #shares: readonly Share[];
  readonly #gather: boolean;
  readonly #me: number;
  readonly #own: OwnNodes;
  readonly #blocks: number;
  /** Number of this member's first partial sum, and of all partial sums. */
  readonly #first: number;
  readonly #count: number;
  readonly #maySleep: boolean;
  #results: readonly (readonly (Float32Array | null)[] | null)[] = [];
  /** By unit: how its partial sums are added up (`prepare` says so), and by member the number of the one whose place its sums take. */
  #plans: readonly (SumPlan | null)[] = [];
  #places: readonly (readonly number[])[] = [];

  /**
   * Null where the group cannot meet in shared memory; every member comes to the same answer.
   * @param shares what each member finishes, cut into pieces of at most so many elements
   * @param gather whether every member is to have all sums, or only those that it finishes
   */
  static open(
    transport: Transport,
    group: Group,
    tag: string,
    reduction: TreeReduction,
    shares: (limit: number) => readonly Share[],
    { gather, pieceElements = MOST_PIECE }: { gather: boolean; pieceElements?: number | undefined },
  ): ArenaReduction | null {
    const { shared } = transport;
    const members = group.ranks.length;
    const { leaves, ranges, units } = reduction;
    if (!shared || members < 2 || ranges.length !== members) return null;
    const nodes = ranges.map((range) => maximalNodes(range, leaves));
    const count = nodes.reduce((sum, list) => sum + list.length, 0);
    const name = new TextEncoder().encode(`${tag} ${group.ranks.join()}`);
    const desk = shared.arena.desk(group.ranks[0] as number, members, name, count * units.length);
    // (A multiple of 16 elements, which are a cache line.)
    const most = Math.floor(Desk.roomBytes / (4 * DEPTH * count * members * 16)) * 16;
    if (!desk || most < LEAST_PIECE) return null;
    const limit = Math.min(most, pieceElements);
    const place = { shared, desk, name, limit, shares: shares(limit) };
    return new ArenaReduction(transport, group, tag, reduction, nodes, place, gather);
  }

  private constructor(
    transport: Transport,
    group: Group,
    tag: string,
    reduction: TreeReduction,
    nodes: readonly (readonly LeafRange[])[],
    { shared, desk, name, limit, shares }: Place,
    gather: boolean,
  ) {
    this.#transport = transport;
    this.#group = group;
    this.#tag = tag;
    this.#reduction = reduction;
    this.#nodes = nodes;
    this.#shared = shared;
    this.#desk = desk;
    this.#name = name;
    this.#limit = limit;
    this.#shares = shares;
    this.#gather = gather;
    this.#me = memberIndex(transport, group);
    this.#maySleep = shared.arena.maySleep(transport.rank, group.ranks);
    this.#own = ownNodes(nodes[this.#me] as LeafRange[], reduction.units, tag);
    const before = (member: number) => nodes.slice(0, member).reduce((sum, list) => sum + list.length, 0);
    this.#first = before(this.#me);
    this.#count = before(nodes.length);
    this.#blocks = Math.max(1, ...shares.map(({ length }) => length));
  }

  /**
   * Does it all, which takes all members. Returns the sums by unit and tensor: null for units that are absent everywhere,
   * and for tensors that this member neither had nor is to have. To be called once.
   */
  async finish(): Promise<readonly (readonly (Float32Array | null)[] | null)[]> {
    await this.#meet();
    const [desk, me, blocks, members] = [this.#desk, this.#me, this.#blocks, this.#nodes.length];
    const { progress } = desk;
    desk.flags.set(this.#own.presence, this.#first * this.#reduction.units.length);
    let [put, taken] = [0, 0];
    while (taken < blocks) {
      const heard = desk.bell();
      // What empties the desk comes first.
      if (taken < put && progress.isSummed(taken)) {
        this.#prepare();
        this.#take(taken);
        progress.taken(me, taken);
        taken += 1;
        continue;
      }
      const slice = progress.claim(me);
      if (slice !== null) {
        this.#prepare();
        const block = Math.floor(slice / members);
        this.#sum(block, slice % members);
        progress.summed(block);
      } else if (put < blocks && progress.isFree(put)) {
        this.#put(put);
        progress.put(me, put);
        put += 1;
      } else {
        await this.#wait(heard, () => progress.late(me, put, taken));
      }
    }
    desk.leave();
    this.#account();
    return this.#results;
  }

  /** The leader waits until everyone has left the desk, and calls the members; these wait to be called. */
  async #meet(): Promise<void> {
    const desk = this.#desk;
    const figures = [this.#blocks, this.#limit, this.#count, this.#reduction.units.length];
    for (;;) {
      const heard = desk.bell();
      if (this.#me === 0) {
        if (desk.claim(this.#name, figures)) return;
      } else {
        const told = desk.join(this.#name, figures.length);
        if (told?.join() === figures.join()) return;
        if (told)
          throw new CommProtocolError(
            `reduction "${this.#tag}": rank ${this.#group.ranks[0]} counts ${told.join(', ')} blocks, elements a piece, partial ` +
              `sums and units, rank ${this.#transport.rank} ${figures.join(', ')}; all ranks must reduce tensors of the same sizes`,
          );
      }
      await this.#wait(heard, () => [this.#me > 0 ? 0 : desk.progress.last('taken'), 'meet']);
    }
  }

  /** Waits for the bell: asleep at first, since the others are likely to be just as far; then as for a message of who is late. */
  async #wait(heard: number, late: () => readonly [member: number, what: string]): Promise<void> {
    const [desk, ranks] = [this.#desk, this.#group.ranks];
    if (this.#maySleep && desk.sleep(heard, SLEEP_MS)) return;
    const leave = desk.attend();
    try {
      const [member, what] = late();
      const from = ranks[member === this.#me ? (member + 1) % ranks.length : member] as number;
      await this.#shared.attend(from, `${this.#tag}/desk/${what}`, desk.rung(heard));
    } catch (error) {
      // Who has left may have done all that was waited for.
      if (desk.bell() === heard) throw error;
    } finally {
      leave();
    }
  }

  /** Copies this member's partial sums of a block to the desk. */
  #put(block: number): void {
    const { room } = this.#desk;
    this.#own.values.forEach((node, n) => {
      this.#shares.forEach((share, member) => {
        let at = this.#at(block, this.#first + n, member);
        for (const { unit, tensor, start, length } of share[block] ?? []) {
          const array = node[unit]?.[tensor];
          if (array) room.set(length === array.length ? array : array.subarray(start, start + length), at);
          at += length;
        }
      });
    });
  }

  /** Once everybody's flags are there: decides what is added up, and where the sums are to be. */
  #prepare(): void {
    if (this.#plans.length > 0) return;
    const { leaves, units, root = { start: 0, end: leaves } } = this.#reduction;
    let at = 0;
    const presence = this.#nodes.map((list) => {
      const flags = this.#desk.flags.slice(at, at + list.length * units.length);
      at += flags.length;
      return flags;
    });
    const orders = units.map((_, unit) => finishingSum(root, this.#nodes, presence, unit, units.length));
    this.#plans = orders.map((order) => order && planSum(order));
    this.#places = orders.map((order, unit) => {
      let before = 0;
      return this.#nodes.map((list, member) => {
        const own = list.findIndex((_, n) => presence[member]?.[n * units.length + unit] === 1);
        before += list.length;
        // (Its own is in its core's cache already.)
        return own < 0 ? (order?.[0] ?? 0) : before - list.length + own;
      });
    });
    const mine = this.#gather ? null : (this.#shares[this.#me] as Share).flat();
    this.#results = sumMemory(units, orders, this.#own, mine);
  }

  /** Adds up what a member finishes of a block; the sum takes the place of one of the partial sums. */
  #sum(block: number, member: number): void {
    let offset = 0;
    for (const { unit, length } of this.#shares[member]?.[block] ?? []) {
      const plan = this.#plans[unit];
      const from = offset;
      const placeOf = (number: number) => this.#at(block, number, member) + from;
      if (plan) this.#desk.sum(this.#me, plan, placeOf, placeOf(this.#places[unit]?.[member] as number), length);
      offset += length;
    }
  }

  /** Copies sums of a block from the desk. */
  #take(block: number): void {
    const { room } = this.#desk;
    this.#shares.forEach((share, member) => {
      if (!this.#gather && member !== this.#me) return;
      let offset = 0;
      for (const { unit, tensor, start, length } of share[block] ?? []) {
        const plan = this.#plans[unit];
        const into = this.#results[unit]?.[tensor];
        if (plan && into) {
          const at = this.#at(block, this.#places[unit]?.[member] as number, member) + offset;
          into.set(room.subarray(at, at + length), start);
        }
        offset += length;
      }
    });
  }

  /** Where on the desk a member's piece of a block is, of one partial sum; in elements. */
  #at(block: number, number: number, member: number): number {
    return (((block % DEPTH) * this.#count + number) * this.#nodes.length + member) * this.#limit;
  }

  /** Counts what other members have read of this one's numbers, and the other way round, as if they had been sent. */
  #account(): void {
    const peers = this.#nodes.length - 1;
    let [sent, received] = [0, 0];
    this.#shares.forEach((share, member) => {
      for (const runs of share)
        for (const { unit, length } of runs) {
          const plan = this.#plans[unit];
          if (!plan) continue;
          const held = this.#own.values.filter((node) => node[unit]).length;
          if (member === this.#me) {
            sent += this.#gather ? peers * length : 0;
            received += length * (plan.operands - held);
          } else {
            sent += length * held;
            received += this.#gather ? length : 0;
          }
        }
    });
    this.#shared.moved(4 * sent, 4 * received);
  }
}
