import type { Named, ParamSpec, StateSpec } from '../modules/index.ts';
import { type Program, type ReducedKind, reducingGroup, shardOwners } from '../plan/index.ts';
import { sizeOf } from '../tensor/index.ts';
import type { GroupShards } from './param-group.ts';

/** Parameters and state that become a group, before it is made. */
export interface GroupContent {
  readonly name: string;
  readonly params: readonly Named<ParamSpec>[];
  readonly state: readonly Named<StateSpec>[];
}

/**
 * Who owns the optimizer state of groups of parameters, by their names, where the program shards it; empty where each
 * replica keeps all of it. `groups` are all dense groups of the rank, or all its experts: the balance is over them all,
 * in the order in which the planner has them.
 */
export function shardGroups(
  program: Program,
  what: ReducedKind,
  groups: readonly GroupContent[],
): ReadonlyMap<string, GroupShards> {
  const shards = new Map<string, GroupShards>();
  const { ranks } = reducingGroup(program.mesh, program.rank, what);
  if (program.zero === 0 || ranks.length === 1) return shards;
  const bytes = ({ spec }: { readonly spec: { readonly shape: readonly number[] } }) => 4 * sizeOf(spec.shape);
  const items = groups.flatMap(({ params, state }) => [
    ...params.map(bytes),
    ...(state.length > 0 ? [state.reduce((sum, each) => sum + bytes(each), 0)] : []),
  ]);
  const owners = shardOwners(items, ranks.length);
  const member = ranks.indexOf(program.rank);
  let at = 0;
  for (const { name, params, state } of groups) {
    const own = owners.slice(at, at + params.length);
    at += params.length;
    shards.set(name, { member, params: own, state: state.length > 0 ? (owners[at++] as number) : 0 });
  }
  return shards;
}
