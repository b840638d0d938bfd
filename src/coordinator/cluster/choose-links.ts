import type { LinkKind } from '../../comm/index.ts';
import type { SlotAddresses } from '../../worker/index.ts';
import { ClusterError } from './errors.ts';

/** One end of a link. */
export interface LinkEnd {
  readonly agent: string;
  readonly address: SlotAddresses;
}

/** What the config allows: any kind that works, or one only. */
export type LinkChoice = LinkKind | 'auto';

/** What is known of the ways between two agents. */
export interface KnownWays {
  /** Whether each can dial the other's address; undefined where nobody has tried. */
  reachable(from: string, to: string): boolean | undefined;
  /** Kinds that have failed between the two in this run. */
  failed(a: string, b: string): ReadonlySet<LinkKind>;
}

/**
 * How each pair of ranks is linked: the fastest kind that both ends offer, that a probe found to work, that the config
 * allows and that has not failed before. By rank, then rank; `-` for oneself.
 * @throws ClusterError naming a pair for which the one kind that the config allows is impossible
 */
export function chooseLinks(ends: readonly LinkEnd[], choice: LinkChoice, ways: KnownWays): (LinkKind | '-')[][] {
  return ends.map((a, i) => ends.map((b, j) => (i === j ? '-' : linkOf(i < j ? a : b, i < j ? b : a, choice, ways))));
}

/** Pairs of agents between which a direct link would be tried if they could reach each other, each pair once. */
export function pairsToProbe(ends: readonly LinkEnd[], choice: LinkChoice, ways: KnownWays): [LinkEnd, LinkEnd][] {
  if (choice !== 'auto' && choice !== 'tcp') return [];
  const pairs = new Map<string, [LinkEnd, LinkEnd]>();
  for (const [i, a] of ends.entries())
    for (const b of ends.slice(i + 1)) {
      if (a.agent === b.agent || !a.address.tcp || !b.address.tcp) continue;
      if (choice === 'auto' && possible(a, b, ways).some((kind) => kind === 'host' || kind === 'unix')) continue;
      const known = [ways.reachable(a.agent, b.agent), ways.reachable(b.agent, a.agent)];
      if (!known.includes(undefined) || known.includes(false)) continue;
      pairs.set([a.agent, b.agent].sort().join(' '), [a, b]);
    }
  return [...pairs.values()];
}

function linkOf(a: LinkEnd, b: LinkEnd, choice: LinkChoice, ways: KnownWays): LinkKind {
  const kinds = possible(a, b, ways);
  // Threads of one process are linked directly whatever the config says of the ways between processes.
  if (kinds[0] === 'local') return 'local';
  const allowed = kinds.filter((kind) => choice === 'auto' || kind === choice);
  const failed = ways.failed(a.agent, b.agent);
  // Where only one kind is allowed it is tried again: there is no other.
  const best = allowed.find((kind) => !failed.has(kind)) ?? allowed[0];
  if (best) return best;
  throw new ClusterError(
    `comm.data is ${choice}, but agents ${a.agent} and ${b.agent} can only be linked by ${kinds.join(', ')}: ` +
      `set comm.data to auto, or ${howTo(choice)}`,
  );
}

/** Kinds that work between two ends, fastest first. */
function possible(a: LinkEnd, b: LinkEnd, ways: KnownWays): LinkKind[] {
  if (a.agent === b.agent) return ['local'];
  const same = a.address.hostId === b.address.hostId;
  const kinds: LinkKind[] = [];
  if (same && a.address.host && b.address.host) kinds.push('host');
  if (same && a.address.unix && b.address.unix) kinds.push('unix');
  const dialled = ways.reachable(a.agent, b.agent) === true && ways.reachable(b.agent, a.agent) === true;
  if (a.address.tcp && b.address.tcp && dialled) kinds.push('tcp');
  return [...kinds, 'nats'];
}

function howTo(choice: LinkChoice): string {
  switch (choice) {
    case 'local':
      return 'run all ranks in one process (plexus worker --slots N)';
    case 'host':
      return 'run both on one machine, with koffi installed';
    case 'unix':
      return 'run both on one machine';
    default:
      return 'let each reach the other (plexus worker --listen HOST)';
  }
}
