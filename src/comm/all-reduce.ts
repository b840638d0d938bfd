import { ArenaReduction } from './arena-reduction.ts';
import { FlatLayout, type Piece } from './flat-layout.ts';
import { HostAllReduce } from './host-all-reduce.ts';
import { splitByHost } from './host-split.ts';
import { scratch } from './scratch.ts';
import type { Group, Transport } from './transport.ts';
import { pack, type Share, spread, TreeScatter, unpack, vector } from './tree-scatter.ts';
import type { TreeReduction, TreeReductionOptions, TreeUnit } from './tree-units.ts';

/** Sums per unit; null where every leaf of every rank was absent. */
export type UnitSums = (Float32Array[] | null)[];

/** An all-reduce that has begun: what the others need is on its way. */
export interface AllReduceUnderWay {
  /** Waits for the others and returns the sums. To be called once. */
  finish(): Promise<UnitSums>;
}

/**
 * All-reduce whose result has the bits of the canonical tree over all leaves, whatever the number of ranks and their
 * shares. The tensors are seen as one line of elements; each member sends its tree nodes of share j to member j, which
 * finishes the tree for that share (a reduce-scatter: everyone adds 1/d of the data), and the sums are all-gathered.
 *
 * For power-of-two groups and shares this is the reduce-scatter and all-gather of Rabenseifner's algorithm (Thakur,
 * Rabenseifner and Gropp 2005, doi 10.1177/1094342005051521) with direct exchange; other group sizes send a few more nodes.
 * Where the group says which members share a machine, and the tree allows it (`splitByHost`), they work together first.
 */
export async function allReduceTree(
  transport: Transport,
  group: Group,
  tag: string,
  reduction: TreeReduction,
  options: TreeReductionOptions = {},
): Promise<UnitSums> {
  return beginAllReduce(transport, group, tag, reduction, options).finish();
}

/** The first half of `allReduceTree`: sends this rank's partial sums, and leaves time for other work. */
export function beginAllReduce(
  transport: Transport,
  group: Group,
  tag: string,
  reduction: TreeReduction,
  options: TreeReductionOptions = {},
): AllReduceUnderWay {
  const members = group.ranks.length;
  const { units } = reduction;
  const layout = new FlatLayout(units.map((unit) => unit.sizes));
  const limit = options.pieceElements ?? 2 ** 17;
  // (In a direct exchange everything is packed before anything is added, so it must fit one piece; and where a codec rounds
  // what is sent, each rank would add up something else.)
  const rounded = transport.settle?.(`${tag}/gather/pieces`, new Float32Array(0)) === true;
  const direct = !rounded && layout.total <= Math.min(options.directElements ?? 2 ** 14, limit);
  const split = rounded || direct ? null : splitByHost(group, reduction.ranges, reduction.leaves);
  if (split) {
    const byHost = new HostAllReduce(transport, group, tag, reduction, split, limit);
    return {
      finish: () =>
        byHost.finish((lane, laneTag, sums) =>
          allReduceTree(transport, lane, laneTag, sums, { ...options, directElements: 0 }),
        ),
    };
  }
  const pieces = (piece: Piece, most: number): Share => layout.pieces(piece, most).map((part) => layout.runs(part));
  const sharesOf = (most: number) =>
    group.ranks.map((_, member) =>
      pieces(direct ? { start: 0, end: layout.total } : layout.share(member, members), most),
    );
  if (!rounded && !direct) {
    const how = { gather: true, pieceElements: options.pieceElements };
    const inMemory = ArenaReduction.open(transport, group, tag, reduction, sharesOf, how);
    if (inMemory) return { finish: async () => whole(await inMemory.finish()) };
  }
  const shares = sharesOf(limit);
  const scatter = new TreeScatter(transport, group, tag, reduction, shares);
  scatter.post();
  return {
    finish: async () => {
      await (direct ? scatter.finish(() => undefined) : finishAndGather(transport, group, tag, units, shares, scatter));
      return whole(scatter.results);
    },
  };
}

/** (Nothing has come for tensors without elements.) */
function whole(results: readonly (readonly (Float32Array | null)[] | null)[]): UnitSums {
  return results.map((sums) => sums?.map((sum) => sum ?? new Float32Array(0)) ?? null);
}

async function finishAndGather(
  transport: Transport,
  group: Group,
  tag: string,
  units: readonly TreeUnit[],
  shares: readonly Share[],
  scatter: TreeScatter,
): Promise<void> {
  // Another channel: sums that wait for a slow rank must not use up the credits that it needs to get on.
  const gatherTag = `${tag}/gather/pieces`;
  const peers = group.ranks.flatMap((_, member) => (member === scatter.me ? [] : [member]));
  const rankOf = (member: number) => group.ranks[member] as number;
  const { results } = scatter;
  const sends: Promise<void>[] = [];
  const finishing = scatter.finish((runs) => {
    const sums = pack(runs, [results]);
    // Where a codec rounds what is sent, this rank goes on with what the others will read.
    if (transport.settle?.(gatherTag, sums)) spread(runs, sums, (unit, tensor) => results[unit]?.[tensor] ?? null);
    // (What is too small for scratch memory is copied by the transport.)
    const packed = vector(scratch.share(sums, peers.length));
    for (const member of peers) {
      const sending = transport.send(rankOf(member), gatherTag, [packed], {
        transfer: scratch.owns(packed.data.buffer),
      });
      // Awaited below; until then a failure must not count as unhandled.
      sending.catch(() => undefined);
      sends.push(sending);
    }
  });
  const into = (unit: number, tensor: number): Float32Array | null => {
    const sums = results[unit];
    if (!sums) return null;
    sums[tensor] ??= new Float32Array(units[unit]?.sizes[tensor] as number);
    return sums[tensor];
  };
  // Which units are present is known once this rank's own share has begun, and shares from others may come only after.
  const gathering = peers.map(async (member) => {
    await finishing;
    for (const runs of shares[member] as Share) {
      const [tensor] = await transport.recv(rankOf(member), gatherTag);
      unpack(runs, tensor?.data as Float32Array, into);
    }
  });
  await Promise.all([finishing, ...gathering]);
  await Promise.all(sends);
}
