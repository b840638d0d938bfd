import { float32, type HostTensor } from '../tensor/index.ts';
import { type Postfix, sumArrays } from './adder.ts';
import { memberIndex } from './collectives.ts';
import type { Run } from './flat-layout.ts';
import { scratch } from './scratch.ts';
import type { Group, Transport } from './transport.ts';
import { type LeafRange, maximalNodes } from './tree.ts';
import { finishingSum, type OwnNodes, ownNodes, sumMemory, type TreeReduction } from './tree-units.ts';

/** What one member finishes, in pieces of a message each; none if it finishes nothing. */
export type Share = readonly (readonly Run[])[];

/** Takes a piece whose sums are finished. */
export type PieceDone = (runs: readonly Run[]) => void;

/**
 * The half of a reduction in which partial sums travel: each member sends every other one the tree nodes of what that one
 * finishes, and finishes its own share. Sending and finishing are apart, so that there may be other work between them.
 */
export class TreeScatter {
  /** Index of this rank in the group. */
  readonly me: number;
  /**
   * By unit and tensor, once `finish` has begun: memory for the sums. Null where a unit is absent everywhere; a tensor is
   * null where this rank neither had a partial sum nor finishes any of it.
   */
  readonly results: ((Float32Array | null)[] | null)[];
  readonly #transport: Transport;
  readonly #group: Group;
  readonly #tag: string;
  readonly #reduction: TreeReduction;
  readonly #shares: readonly Share[];
  readonly #nodes: readonly (readonly LeafRange[])[];
  readonly #own: OwnNodes;
  #sends: readonly Promise<void>[] = [];

  /** @param shares of each member, the same on all of them */
  constructor(transport: Transport, group: Group, tag: string, reduction: TreeReduction, shares: readonly Share[]) {
    this.me = memberIndex(transport, group);
    const { leaves, ranges, units } = reduction;
    const members = group.ranks.length;
    if (ranges.length !== members)
      throw new RangeError(`reduction "${tag}" over ${members} ranks needs ${members} ranges, got ${ranges.length}`);
    this.#transport = transport;
    this.#group = group;
    this.#tag = `${tag}/scatter/pieces`;
    this.#reduction = reduction;
    this.#shares = shares;
    this.#nodes = ranges.map((range) => maximalNodes(range, leaves));
    this.#own = ownNodes(this.#nodes[this.me] as LeafRange[], units, tag);
    this.results = new Array<null>(units.length).fill(null);
  }

  /** Sends what the others need. Returns at once; `finish` waits until it has been sent. */
  post(): void {
    this.#sends = this.#peers().map((member) => this.#send(member));
    // Awaited by `finish`; a failure before that must not count as unhandled.
    for (const send of this.#sends) send.catch(() => undefined);
  }

  /** This rank's first partial sum of a unit, if it has any. */
  own(unit: number): readonly Float32Array[] | null {
    return this.#own.first(unit);
  }

  /** Receives the others' partial sums and finishes this rank's share; `done` is called for piece after piece. */
  async finish(done: PieceDone): Promise<void> {
    await Promise.all([this.#finish(done), ...this.#sends]);
  }

  async #send(member: number): Promise<void> {
    const to = this.#group.ranks[member] as number;
    for (const [index, runs] of (this.#shares[member] as Share).entries()) {
      const packed = vector(pack(runs, this.#own.values));
      // A copy of the flags: the message's memory is given away, the flags are needed for every peer.
      const flags: HostTensor[] = index === 0 ? [bytes(this.#own.presence.slice())] : [];
      await this.#transport.send(to, this.#tag, [...flags, packed], { transfer: true });
    }
  }

  async #finish(done: PieceDone): Promise<void> {
    const { me } = this;
    const { leaves, units, root = { start: 0, end: leaves } } = this.#reduction;
    const peers = this.#peers();
    const presence: Uint8Array[] = [];
    presence[me] = this.#own.presence;
    let orders: readonly (Postfix | null)[] | null = null;
    for (const runs of this.#shares[me] as Share) {
      const received: Float32Array[] = [];
      for (const member of peers) {
        const tensors = await this.#transport.recv(this.#group.ranks[member] as number, this.#tag);
        presence[member] ??= tensors[0]?.data as Uint8Array;
        received[member] = tensors[tensors.length - 1]?.data as Float32Array;
      }
      if (!orders) {
        orders = units.map((_, unit) => finishingSum(root, this.#nodes, presence, unit, units.length));
        const sums = sumMemory(units, orders, this.#own, (this.#shares[me] as Share).flat());
        this.results.splice(0, sums.length, ...sums);
      }
      this.#combine(runs, presence, received, orders);
      for (const member of peers) scratch.give(received[member] as Float32Array);
      done(runs);
    }
  }

  #combine(
    runs: readonly Run[],
    presence: readonly Uint8Array[],
    received: readonly Float32Array[],
    orders: readonly (Postfix | null)[],
  ): void {
    const units = this.#reduction.units.length;
    const present = (member: number, n: number, unit: number) => presence[member]?.[n * units + unit] === 1;
    // Where the next run of each partial sum begins in the message that carries it.
    const cursors: number[] = [];
    this.#nodes.forEach((list, member) => {
      let cursor = 0;
      list.forEach((_, n) => {
        cursors.push(cursor);
        for (const run of runs) if (present(member, n, run.unit)) cursor += run.length;
      });
    });
    for (const { unit, tensor, start, length } of runs) {
      const order = orders[unit];
      if (!order) continue;
      const operands: Float32Array[] = [];
      let number = 0;
      this.#nodes.forEach((list, member) => {
        list.forEach((_, n) => {
          if (present(member, n, unit)) {
            const cursor = cursors[number] as number;
            cursors[number] = cursor + length;
            operands[number] =
              member === this.me
                ? ownPart(this.#own, n, unit, tensor, start, start + length)
                : (received[member] as Float32Array).subarray(cursor, cursor + length);
          }
          number += 1;
        });
      });
      const out = this.results[unit]?.[tensor] as Float32Array;
      sumArrays([out.subarray(start, start + length)], operands, order);
    }
  }

  #peers(): number[] {
    return this.#group.ranks.flatMap((_, member) => (member === this.me ? [] : [member]));
  }
}

function ownPart(own: OwnNodes, node: number, unit: number, tensor: number, start: number, end: number): Float32Array {
  const array = own.values[node]?.[unit]?.[tensor] as Float32Array;
  return array.subarray(start, end);
}

/** Copies stretches of tensors, node by node, into one array of scratch memory. */
export function pack(
  runs: readonly Run[],
  values: readonly (readonly (readonly (Float32Array | null)[] | null)[])[],
): Float32Array {
  let size = 0;
  for (const node of values) for (const { unit, length } of runs) if (node[unit]) size += length;
  const packed = scratch.take(size);
  let offset = 0;
  for (const node of values)
    for (const { unit, tensor, start, length } of runs) {
      const array = node[unit]?.[tensor];
      if (!array) continue;
      packed.set(start === 0 && length === array.length ? array : array.subarray(start, start + length), offset);
      offset += length;
    }
  return packed;
}

/** The other way round, for one node; memory that nobody reads any more goes back to the pool. */
export function unpack(
  runs: readonly Run[],
  packed: Float32Array,
  into: (unit: number, tensor: number) => Float32Array | null,
): void {
  spread(runs, packed, into);
  scratch.give(packed);
}

/** Copies stretches of one array to where they belong, for one node. */
export function spread(
  runs: readonly Run[],
  packed: Float32Array,
  into: (unit: number, tensor: number) => Float32Array | null,
): void {
  let offset = 0;
  for (const { unit, tensor, start, length } of runs) {
    const array = into(unit, tensor);
    if (!array) continue;
    array.set(packed.subarray(offset, offset + length), start);
    offset += length;
  }
}

/** A list of numbers as a tensor. */
export function vector(data: Float32Array): HostTensor {
  return float32(data, [data.length]);
}

function bytes(data: Uint8Array): HostTensor {
  return { dtype: 'uint8', shape: [data.length], data };
}
