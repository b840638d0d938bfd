import { ArenaReduction } from './arena-reduction.ts';
import { memberIndex } from './collectives.ts';
import { FlatLayout } from './flat-layout.ts';
import { scratch } from './scratch.ts';
import type { Group, Transport } from './transport.ts';
import { pack, type Share, TreeScatter, unpack, vector } from './tree-scatter.ts';
import type { TreeReduction, TreeReductionOptions } from './tree-units.ts';

/** By unit and tensor: the member (its index in the group) that owns it. */
export type Owners = readonly (readonly number[])[];

/** Sums by unit and tensor: null for tensors that another member owns, that are empty, or that are absent everywhere. */
export type OwnedSums = readonly (readonly (Float32Array | null)[])[];

/** A reduce-scatter that has begun: what the owners need is on its way. */
export interface ReduceScatterUnderWay {
  /** Waits for the others and returns the sums that this member owns. To be called once. */
  finish(): Promise<OwnedSums>;
}

/**
 * Sums tensors in the canonical tree like `allReduceTree`, with the same bits, but gives each sum to one member only: the
 * tensor's owner (whole tensors, so that what needs one as a whole, a norm or Muon's update, can be computed there).
 * Sends at once; `finish` adds up what the others sent.
 */
export function beginReduceScatter(
  transport: Transport,
  group: Group,
  tag: string,
  reduction: TreeReduction,
  owners: Owners,
  options: Pick<TreeReductionOptions, 'pieceElements'> = {},
): ReduceScatterUnderWay {
  const sizes = reduction.units.map((unit) => unit.sizes);
  const owned = (results: readonly (readonly (Float32Array | null)[] | null)[]): OwnedSums => {
    const me = memberIndex(transport, group);
    return sizes.map((unit, u) => unit.map((_, t) => (owners[u]?.[t] === me ? (results[u]?.[t] ?? null) : null)));
  };
  const shares = (pieceElements: number) => sharesOf(group, sizes, owners, { pieceElements });
  const inMemory = ArenaReduction.open(transport, group, tag, reduction, shares, { ...options, gather: false });
  if (inMemory) return { finish: async () => owned(await inMemory.finish()) };
  const scatter = new TreeScatter(transport, group, tag, reduction, sharesOf(group, sizes, owners, options));
  scatter.post();
  return {
    finish: async () => {
      await scatter.finish(() => undefined);
      return owned(scatter.results);
    },
  };
}

/** An all-gather that has begun. */
export interface AllGatherUnderWay {
  /** Receives what others own; `into` says where to. To be called once. */
  finish(into: (unit: number, tensor: number) => Float32Array): Promise<void>;
}

/**
 * Gives every member the float32 tensors that each of them owns, written into memory that is there already: the way back
 * from `beginReduceScatter`. Sends at once what this member owns (`own`); `finish` takes in the others'.
 * @param sizes element counts by unit and tensor, the same on every member
 */
export function beginAllGather(
  transport: Transport,
  group: Group,
  tag: string,
  sizes: readonly (readonly number[])[],
  owners: Owners,
  own: (unit: number, tensor: number) => Float32Array,
  options: Pick<TreeReductionOptions, 'pieceElements'> = {},
): AllGatherUnderWay {
  const me = memberIndex(transport, group);
  const shares = sharesOf(group, sizes, owners, options);
  const channel = `${tag}/gather/pieces`;
  const peers = group.ranks.flatMap((_, member) => (member === me ? [] : [member]));
  const mine = sizes.map((unit, u) => unit.map((_, t) => (owners[u]?.[t] === me ? own(u, t) : null)));
  const sends = (shares[me] as Share).flatMap((runs) => {
    const packed = vector(scratch.share(pack(runs, [mine]), peers.length));
    return peers.map((member) =>
      transport.send(group.ranks[member] as number, channel, [packed], { transfer: scratch.owns(packed.data.buffer) }),
    );
  });
  // Awaited by `finish`; a failure before that must not count as unhandled.
  for (const send of sends) send.catch(() => undefined);
  const receive = async (member: number, into: (unit: number, tensor: number) => Float32Array): Promise<void> => {
    for (const runs of shares[member] as Share) {
      const [tensor] = await transport.recv(group.ranks[member] as number, channel);
      unpack(runs, tensor?.data as Float32Array, into);
    }
  };
  return {
    finish: async (into) => {
      await Promise.all([...peers.map((member) => receive(member, into)), ...sends]);
    },
  };
}

/** What each member owns, in pieces; nothing, where that is empty. */
function sharesOf(
  group: Group,
  sizes: readonly (readonly number[])[],
  owners: Owners,
  { pieceElements = 2 ** 17 }: Pick<TreeReductionOptions, 'pieceElements'>,
): Share[] {
  return group.ranks.map((_, member) => {
    const layout = new FlatLayout(sizes, (unit, tensor) => owners[unit]?.[tensor] === member);
    if (layout.total === 0) return [];
    return layout.pieces({ start: 0, end: layout.total }, pieceElements).map((piece) => layout.runs(piece));
  });
}
