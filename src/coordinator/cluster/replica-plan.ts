import type { Seat } from './choose-seats.ts';
import type { TensorNeed } from './tensor-needs.ts';

/** What a rank's agent copies to another after each snapshot; null for nothing. */
export type Replication = { readonly to: string; readonly names: readonly string[] } | null;

/** An agent that can keep copies. */
export interface ReplicaHost {
  readonly agent: string;
  readonly hostId: string;
}

/**
 * Which tensors must be copied so that the loss of any one process loses none: those that only one process holds. The
 * first rank that holds such a tensor copies it, to a process of another host where there is one, each time to the one
 * that has got the fewest bytes so far. By rank.
 */
export function replicaPlan(
  needs: readonly (readonly TensorNeed[])[],
  seats: readonly Seat[],
  agents: readonly ReplicaHost[],
): Replication[] {
  const holders = new Map<string, Set<string>>();
  for (const [rank, own] of needs.entries())
    for (const { name } of own) {
      const known = holders.get(name) ?? new Set<string>();
      holders.set(name, known.add((seats[rank] as Seat).agent));
    }
  const hosts = new Map(agents.map(({ agent, hostId }) => [agent, hostId]));
  const given = new Map<string, number>();
  const copied = new Set<string>();
  return needs.map((own, rank) => {
    const { agent } = seats[rank] as Seat;
    const alone = own.filter(({ name }) => holders.get(name)?.size === 1 && !copied.has(name));
    const others = agents.filter((other) => other.agent !== agent);
    if (alone.length === 0 || others.length === 0) return null;
    const elsewhere = others.filter(({ hostId }) => hostId !== hosts.get(agent));
    const to = (elsewhere.length > 0 ? elsewhere : others).reduce((a, b) =>
      (given.get(b.agent) ?? 0) < (given.get(a.agent) ?? 0) ? b : a,
    ).agent;
    for (const { name } of alone) copied.add(name);
    given.set(to, (given.get(to) ?? 0) + alone.reduce((sum, { bytes }) => sum + bytes, 0));
    return { to, names: alone.map(({ name }) => name) };
  });
}
