import { FlatLayout, type Run } from './flat-layout.ts';
import type { HostSplit } from './host-split.ts';
import { scratch } from './scratch.ts';
import type { Group, Transport } from './transport.ts';
import type { LeafRange } from './tree.ts';
import { pack, type Share, TreeScatter, unpack, vector } from './tree-scatter.ts';
import type { TreeReduction, TreeUnit } from './tree-units.ts';

/** All-reduce among the members of the lane; the same as `beginAllReduce`, which is given to avoid a circle of imports. */
export type ReduceAll = (
  group: Group,
  tag: string,
  reduction: TreeReduction,
) => Promise<readonly (readonly Float32Array[] | null)[]>;

/**
 * An all-reduce in three steps, for groups that span hosts: the ranks of a host sum up what they have (each lane a part of
 * the data), the ranks of each lane, one a host, finish the sums among them, and give them to the ranks of their host. So
 * each number crosses between hosts once for a host and not once for a rank. What a host sums up is a subtree of the
 * canonical tree, so the sums have the same bits.
 */
export class HostAllReduce {
  readonly #transport: Transport;
  readonly #tag: string;
  readonly #reduction: TreeReduction;
  readonly #split: HostSplit;
  /** Which of the hosts this rank is on. */
  readonly #host: number;
  readonly #hostGroup: Group;
  /** Group of the lane that this rank leads; null if it leads none. */
  readonly #laneGroup: Group | null;
  readonly #shares: readonly Share[];
  readonly #scatter: TreeScatter;

  constructor(
    transport: Transport,
    group: Group,
    tag: string,
    reduction: TreeReduction,
    split: HostSplit,
    pieceElements: number,
  ) {
    const me = group.ranks.indexOf(transport.rank);
    const host = split.hosts.findIndex((members) => members.includes(me));
    const members = split.hosts[host] as readonly number[];
    const lane = members.indexOf(me);
    const rankOf = (member: number) => group.ranks[member] as number;
    this.#transport = transport;
    this.#tag = tag;
    this.#reduction = reduction;
    this.#split = split;
    this.#host = host;
    this.#hostGroup = { id: `${group.id}/h${host}`, ranks: members.map(rankOf) };
    this.#laneGroup =
      lane < split.lanes
        ? { id: `${group.id}/l${lane}`, ranks: split.hosts.map((own) => rankOf(own[lane] as number)) }
        : null;
    const layout = new FlatLayout(reduction.units.map((unit) => unit.sizes));
    this.#shares = members.map((_, i) =>
      i < split.lanes
        ? layout.pieces(layout.share(i, split.lanes), pieceElements).map((piece) => layout.runs(piece))
        : [],
    );
    const own: TreeReduction = {
      ...reduction,
      ranges: members.map((member) => reduction.ranges[member] as LeafRange),
      root: split.nodes[host] as LeafRange,
    };
    this.#scatter = new TreeScatter(transport, this.#hostGroup, `${tag}/host`, own, this.#shares);
    this.#scatter.post();
  }

  async finish(reduceAll: ReduceAll): Promise<(Float32Array[] | null)[]> {
    const { results } = this.#scatter;
    await this.#scatter.finish(() => undefined);
    const mine = (this.#shares[this.#scatter.me] as Share).flat();
    let present = new Uint8Array(results.length);
    if (this.#laneGroup) {
      const finished = await this.#finishLane(this.#laneGroup, mine, reduceAll);
      present = Uint8Array.from(finished, (unit) => (unit ? 1 : 0));
    }
    await this.#share(present);
    return results.map((sums) => sums?.map((sum) => sum ?? new Float32Array(0)) ?? null);
  }

  /** Finishes the sums of this lane's part of the data; returns, by unit, whether there is any. */
  async #finishLane(lane: Group, mine: readonly Run[], reduceAll: ReduceAll): Promise<readonly boolean[]> {
    const { leaves, units } = this.#reduction;
    const { results } = this.#scatter;
    const runs = units.map((_, unit) => mine.filter((run) => run.unit === unit));
    const range = this.#split.nodes[this.#host] as LeafRange;
    const reduction: TreeReduction = {
      leaves,
      ranges: this.#split.nodes,
      units: runs.map((own, unit) => {
        const sums = results[unit];
        const value = sums
          ? own.map(({ tensor, start, length }) => (sums[tensor] as Float32Array).subarray(start, start + length))
          : null;
        return { sizes: own.map(({ length }) => length), nodes: value ? [{ range, value }] : [] };
      }),
    };
    const sums = await reduceAll(lane, `${this.#tag}/hosts`, reduction);
    sums.forEach((unit, u) => {
      if (!unit) return;
      this.#makeEmpty(u);
      (runs[u] as Run[]).forEach(({ tensor, start, length }, i) => {
        const sum = unit[i] as Float32Array;
        const into = this.#into(u, tensor).subarray(start, start + length);
        // The sum lies there already where this host had one of its own.
        if (sum.buffer !== into.buffer || sum.byteOffset !== into.byteOffset) into.set(sum);
      });
    });
    return sums.map((unit) => unit !== null);
  }

  /** Gives the sums of each lane to all ranks of the host. */
  async #share(present: Uint8Array): Promise<void> {
    const transport = this.#transport;
    const { ranks } = this.#hostGroup;
    const { me, results } = this.#scatter;
    const channel = `${this.#tag}/host/gather/pieces`;
    const peers = ranks.flatMap((_, member) => (member === me ? [] : [member]));
    const sends = (this.#shares[me] as Share).flatMap((runs, piece) => {
      const packed = vector(scratch.share(pack(runs, [results]), peers.length));
      return peers.map((member) => {
        const flags = { dtype: 'uint8', shape: [present.length], data: present.slice() } as const;
        const sending = transport.send(ranks[member] as number, channel, piece === 0 ? [flags, packed] : [packed], {
          transfer: scratch.owns(packed.data.buffer),
        });
        // Awaited below; until then a failure must not count as unhandled.
        sending.catch(() => undefined);
        return sending;
      });
    });
    const receive = async (member: number): Promise<void> => {
      let there: Uint8Array | null = null;
      for (const runs of this.#shares[member] as Share) {
        const tensors = await transport.recv(ranks[member] as number, channel);
        const flags: Uint8Array = there ?? (tensors[0]?.data as Uint8Array);
        if (!there) for (const [unit, flag] of flags.entries()) if (flag === 1) this.#makeEmpty(unit);
        there = flags;
        unpack(runs, tensors[tensors.length - 1]?.data as Float32Array, (unit, tensor) =>
          flags[unit] === 1 ? this.#into(unit, tensor) : null,
        );
      }
    };
    await Promise.all([...peers.map(receive), ...sends]);
  }

  /** Tensors without elements lie in no part of the data, so nothing that is sent would make them. */
  #makeEmpty(unit: number): void {
    const { sizes } = this.#reduction.units[unit] as TreeUnit;
    for (const [tensor, size] of sizes.entries()) if (size === 0) this.#into(unit, tensor);
  }

  /** Memory of a sum: that of this rank's own, or made where it had none. */
  #into(unit: number, tensor: number): Float32Array {
    const { sizes } = this.#reduction.units[unit] as TreeUnit;
    const own = this.#scatter.own(unit);
    this.#scatter.results[unit] ??= sizes.map((_, i) => own?.[i] ?? null);
    const sums = this.#scatter.results[unit] as (Float32Array | null)[];
    sums[tensor] ??= new Float32Array(sizes[tensor] as number);
    return sums[tensor];
  }
}
