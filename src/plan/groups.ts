import type { Group } from '../comm/index.ts';
import { type MeshShape, positionOf, rankAt } from './mesh.ts';
import { dataRanks, expertPosition } from './placement.ts';
import type { Program, ReducedKind } from './program.ts';

/** The groups that a rank belongs to. Each id names the same ranks everywhere; members are in data order. */
export interface RankGroups {
  /** The data axis: replicas of the dense parameters of the rank's stages. */
  readonly data: Group;
  /** The ranks over which experts are sharded. */
  readonly expert: Group;
  /** Ranks that hold the same experts: one member of every expert group. */
  readonly replica: Group;
  /** Ranks that together hold the whole model once: an expert group at every pipeline position. */
  readonly model: Group;
  /** Ranks of one data index: one at every pipeline position. */
  readonly column: Group;
}

/** Groups made before, so that ranks share one list: a data axis of ten thousand would have as many copies of it. */
const known = new WeakMap<MeshShape, Map<string, Group>>();

/** Groups of a rank: `data/p1`, `expert/p1/g0`, `replica/p1/e1`, `model/g0`, `column/d2`. */
export function groupsOf(mesh: MeshShape, rank: number): RankGroups {
  const { data, pipeline } = positionOf(mesh, rank);
  const { group, member } = expertPosition(mesh, data);
  const first = group * mesh.expert;
  const groups = known.get(mesh) ?? new Map<string, Group>();
  known.set(mesh, groups);
  const of = (id: string, ranks: () => number[]): Group => {
    const made = groups.get(id) ?? { id, ranks: ranks() };
    groups.set(id, made);
    return made;
  };
  return {
    data: of(`data/p${pipeline}`, () => dataRanks(mesh, pipeline, 0, mesh.data)),
    expert: of(`expert/p${pipeline}/g${group}`, () => dataRanks(mesh, pipeline, first, first + mesh.expert)),
    replica: of(`replica/p${pipeline}/e${member}`, () => dataRanks(mesh, pipeline, member, mesh.data, mesh.expert)),
    model: of(`model/g${group}`, () =>
      Array.from({ length: mesh.pipeline }, (_, p) => dataRanks(mesh, p, first, first + mesh.expert)).flat(),
    ),
    column: of(`column/d${data}`, () =>
      Array.from({ length: mesh.pipeline }, (_, p) => rankAt(mesh, { data, pipeline: p })),
    ),
  };
}

/**
 * The groups in which squared norms are gathered, one after another, until every rank knows all of them; those of one rank
 * are left out.
 */
export function normGroups(mesh: MeshShape, rank: number, zero: 0 | 1): Group[] {
  const { data, model, column } = groupsOf(mesh, rank);
  // Where state is sharded a rank knows the norms of what it owns: the data ranks together know their stages'.
  return (zero === 1 ? [data, column] : [model]).filter(({ ranks }) => ranks.length > 1);
}

/** The group over which dense parameters or experts are reduced. */
export function reducingGroup(mesh: MeshShape, rank: number, what: ReducedKind): Group {
  const { data, replica } = groupsOf(mesh, rank);
  return what === 'dense' ? data : replica;
}

/**
 * Tells a program's groups which machine each member is on (any names, one for each rank), so that collectives may let the
 * members of one machine work together first. To be done alike for the programs of all ranks; no bit depends on it.
 */
export function onHosts(program: Program, hostOfRank: readonly string[]): Program {
  const numbers = new Map([...new Set(hostOfRank)].map((host, i) => [host, i]));
  const groups = Object.entries(program.groups).map(([id, group]): [string, Group] => [
    id,
    { ...group, hosts: group.ranks.map((rank) => numbers.get(hostOfRank[rank] as string) as number) },
  ]);
  return { ...program, groups: Object.fromEntries(groups) };
}
