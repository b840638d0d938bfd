import type { Group } from './transport.ts';
import { type LeafRange, maximalNodes } from './tree.ts';

/** A group cut by hosts. */
export interface HostSplit {
  /** Members (indices in the group) of each host, in order. */
  readonly hosts: readonly (readonly number[])[];
  /** The node of the canonical tree that the members of each host have together. */
  readonly nodes: readonly LeafRange[];
  /** Members of each host that talk to other hosts, each for its part of the data: as many as the smallest host has. */
  readonly lanes: number;
}

/**
 * Whether the ranks of each host can sum up first what they have, and how: that keeps the canonical order only where what
 * a host has is a whole subtree, and is worth something only where a host has several members and there are several
 * hosts. Null if not. Every member comes to the same answer, from what all of them are told.
 */
export function splitByHost(group: Group, ranges: readonly LeafRange[], leaves: number): HostSplit | null {
  const { hosts: hostOf, ranks } = group;
  if (!hostOf || hostOf.length !== ranks.length) return null;
  const members = new Map<number, number[]>();
  for (const [member, host] of hostOf.entries()) members.set(host, [...(members.get(host) ?? []), member]);
  const hosts = [...members.values()];
  if (hosts.length < 2 || hosts.length === ranks.length) return null;
  const nodes: LeafRange[] = [];
  for (const own of hosts) {
    const held = own.map((member) => ranges[member] as LeafRange).filter(({ start, end }) => end > start);
    const first = held[0];
    const last = held[held.length - 1];
    if (!first || !last) return null;
    if (held.some(({ start }, i) => i > 0 && start !== held[i - 1]?.end)) return null;
    const union = { start: first.start, end: last.end };
    if (maximalNodes(union, leaves).length !== 1) return null;
    nodes.push(union);
  }
  return { hosts, nodes, lanes: Math.min(...hosts.map(({ length }) => length)) };
}
