import { type HostTensor, int32 } from '../tensor/index.ts';
import type { Group, SendOptions, Transport } from './transport.ts';

/** This transport's position in a group. @throws RangeError if it is no member */
export function memberIndex(transport: Transport, group: Group): number {
  const index = group.ranks.indexOf(transport.rank);
  if (index < 0)
    throw new RangeError(
      `rank ${transport.rank} is not a member of group "${group.id}" (ranks ${group.ranks.join(', ')})`,
    );
  return index;
}

/**
 * Gives every member every member's tensors, in group order. The own entry is the given list itself, not a copy.
 * Members may give lists of different lengths and shapes.
 */
export async function allGather(
  transport: Transport,
  group: Group,
  tag: string,
  tensors: readonly HostTensor[],
): Promise<(readonly HostTensor[])[]> {
  const me = memberIndex(transport, group);
  const sends = group.ranks.filter((_, i) => i !== me).map((rank) => transport.send(rank, tag, tensors));
  const receives = group.ranks.map((rank, i) => (i === me ? tensors : transport.recv(rank, tag)));
  return (await together(receives, sends)) as (readonly HostTensor[])[];
}

/** Waits for what the members sent, in group order. */
export type Arrivals = () => Promise<(readonly HostTensor[])[]>;

/**
 * Sends `outgoing[i]` to member i and returns what each member sent here, in group order. The own entry is passed
 * through. With `transfer`, the tensors for other members are given away.
 */
export async function allToAll(
  transport: Transport,
  group: Group,
  tag: string,
  outgoing: readonly (readonly HostTensor[])[],
  options?: SendOptions,
): Promise<(readonly HostTensor[])[]> {
  const { sends, arrivals } = startAllToAll(transport, group, tag, outgoing, options);
  const [received] = await Promise.all([arrivals(), Promise.all(sends)]);
  return received;
}

/**
 * The first half of an all-to-all: sends, and resolves when that is done. What it returns is the second half, to be
 * called once, when what the others send is needed; until then there is time for other work. No more exchanges of one
 * channel may be half done than the transport has credits.
 */
export async function postAllToAll(
  transport: Transport,
  group: Group,
  tag: string,
  outgoing: readonly (readonly HostTensor[])[],
  options?: SendOptions,
): Promise<Arrivals> {
  const { sends, arrivals } = startAllToAll(transport, group, tag, outgoing, options);
  await Promise.all(sends);
  return arrivals;
}

function startAllToAll(
  transport: Transport,
  group: Group,
  tag: string,
  outgoing: readonly (readonly HostTensor[])[],
  options?: SendOptions,
): { readonly sends: readonly Promise<void>[]; readonly arrivals: Arrivals } {
  const me = memberIndex(transport, group);
  if (outgoing.length !== group.ranks.length)
    throw new RangeError(
      `all-to-all "${tag}" over ${group.ranks.length} ranks needs one list of tensors for each, got ${outgoing.length}`,
    );
  const sends = group.ranks.flatMap((rank, i) =>
    i === me ? [] : [transport.send(rank, tag, outgoing[i] as readonly HostTensor[], options)],
  );
  const receive = (rank: number, i: number) =>
    i === me ? (outgoing[i] as readonly HostTensor[]) : transport.recv(rank, tag);
  return { sends, arrivals: () => Promise.all(group.ranks.map(receive)) };
}

/** Gives every member the root's tensors (`root` is a rank); on the root the list itself is returned. */
export async function broadcast(
  transport: Transport,
  group: Group,
  root: number,
  tag: string,
  tensors: readonly HostTensor[] | null,
): Promise<readonly HostTensor[]> {
  const me = memberIndex(transport, group);
  const size = group.ranks.length;
  const rootIndex = group.ranks.indexOf(root);
  if (rootIndex < 0) throw new RangeError(`the root ${root} of broadcast "${tag}" is not in group "${group.id}"`);
  const relative = (me - rootIndex + size) % size;
  const rankOf = (position: number) => group.ranks[(position + rootIndex) % size] as number;
  // Binomial tree: position p receives from p without its highest bit, and passes on to p + 2^k above that bit.
  let have = tensors;
  let bit = 1;
  if (relative > 0) {
    bit = 2 ** Math.floor(Math.log2(relative));
    have = await transport.recv(rankOf(relative - bit), tag);
    bit *= 2;
  }
  if (!have) throw new TypeError(`the root of broadcast "${tag}" must give the tensors`);
  const sends: Promise<void>[] = [];
  for (; relative + bit < size; bit *= 2) sends.push(transport.send(rankOf(relative + bit), tag, have));
  await together([], sends);
  return have;
}

/** Returns when every member has entered it: log2(ranks) rounds of empty messages (a dissemination barrier). */
export async function barrier(transport: Transport, group: Group, tag: string): Promise<void> {
  const me = memberIndex(transport, group);
  const size = group.ranks.length;
  for (let distance = 1, round = 0; distance < size; distance *= 2, round++) {
    const to = group.ranks[(me + distance) % size] as number;
    const from = group.ranks[(me - distance + size) % size] as number;
    const signal = int32([round], [1]);
    await together([transport.recv(from, `${tag}/${round}`)], [transport.send(to, `${tag}/${round}`, [signal])]);
  }
}

/**
 * Waits for receives and sends that must make progress at the same time (two ranks that only send fill each other's
 * windows). Every promise is observed, so a failure of one leaves no unhandled rejection of another.
 */
export async function together<T>(
  receives: readonly (T | Promise<T>)[],
  sends: readonly Promise<void>[],
): Promise<T[]> {
  const [received] = await Promise.all([Promise.all(receives), Promise.all(sends)]);
  return received;
}
