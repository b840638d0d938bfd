import { type MeshShape, positionOf, rankAt, worldSize } from './mesh.ts';
import type { Stage } from './program.ts';
import type { ModelSummary, ParamSummary } from './summary.ts';

/** What decides where parameters live. */
export interface Placed {
  readonly mesh: MeshShape;
  readonly stages: readonly Stage[];
}

/** The member of an expert group (0 .. ep-1) that holds expert `index` of `experts`. */
export function expertMember(index: number, experts: number, ep: number): number {
  return Math.floor((index * ep) / experts);
}

/** Position of a data rank within its expert group, and the number of the group along the data axis. */
export function expertPosition(mesh: MeshShape, data: number): { readonly group: number; readonly member: number } {
  return { group: Math.floor(data / mesh.expert), member: data % mesh.expert };
}

/**
 * Parameters that a rank holds: the dense ones of its stages (every data rank has a copy), and of each expert call those
 * of the experts whose member it is. In the order of layers.
 */
export function paramsOfRank(summary: ModelSummary, plan: Placed, rank: number): ParamSummary[] {
  const { data, pipeline } = positionOf(plan.mesh, rank);
  return plan.stages
    .filter((stage) => stage.pipelineRank === pipeline)
    .flatMap((stage) => paramsOfStage(summary, plan.mesh, stage, data));
}

/** Parameters of one stage that data rank `data` holds. */
export function paramsOfStage(summary: ModelSummary, mesh: MeshShape, stage: Stage, data: number): ParamSummary[] {
  const { member } = expertPosition(mesh, data);
  return stage.layers.flatMap((index) => {
    const layer = summary.layers[index];
    if (!layer)
      throw new RangeError(`stage ${stage.index} has layer ${index}, but the model has ${summary.layers.length}`);
    const experts = layer.expertCalls.flatMap((call) =>
      call.experts.filter((_, e) => expertMember(e, call.experts.length, mesh.expert) === member).flat(),
    );
    return [...layer.params, ...experts];
  });
}

/** The ranks that hold each parameter, ascending. */
export function placementOf(summary: ModelSummary, plan: Placed): Map<string, number[]> {
  const out = new Map<string, number[]>();
  for (let rank = 0; rank < worldSize(plan.mesh); rank++)
    for (const { path } of paramsOfRank(summary, plan, rank)) {
      const ranks = out.get(path);
      if (ranks) ranks.push(rank);
      else out.set(path, [rank]);
    }
  return out;
}

/** Ranks at a pipeline position with data indices `from` (inclusive) to `to` (exclusive), every `step`-th. */
export function dataRanks(mesh: MeshShape, pipeline: number, from: number, to: number, step = 1): number[] {
  const out: number[] = [];
  for (let data = from; data < to; data += step) out.push(rankAt(mesh, { data, pipeline }));
  return out;
}
