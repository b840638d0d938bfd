import type { Group } from '../comm/index.ts';
import { type MeshShape, positionOf } from './mesh.ts';
import { dataRanks, expertPosition } from './placement.ts';

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
}

/** Groups of a rank: `data/p1`, `expert/p1/g0`, `replica/p1/e1`, `model/g0`. */
export function groupsOf(mesh: MeshShape, rank: number): RankGroups {
  const { data, pipeline } = positionOf(mesh, rank);
  const { group, member } = expertPosition(mesh, data);
  const first = group * mesh.expert;
  const model: number[] = [];
  for (let p = 0; p < mesh.pipeline; p++) model.push(...dataRanks(mesh, p, first, first + mesh.expert));
  return {
    data: { id: `data/p${pipeline}`, ranks: dataRanks(mesh, pipeline, 0, mesh.data) },
    expert: { id: `expert/p${pipeline}/g${group}`, ranks: dataRanks(mesh, pipeline, first, first + mesh.expert) },
    replica: { id: `replica/p${pipeline}/e${member}`, ranks: dataRanks(mesh, pipeline, member, mesh.data, mesh.expert) },
    model: { id: `model/g${group}`, ranks: model },
  };
}
