import { LOSS_PATH, type Model, modelParams, namedState } from '../../modules/index.ts';
import {
  expertMember,
  expertPosition,
  type ParamSummary,
  type Plan,
  paramsOfRank,
  positionOf,
  reducingGroup,
  shardOwners,
} from '../../plan/index.ts';
import { type HeldName, type HeldOptions, heldNames } from '../held-names.ts';

/** A tensor that a rank must have to begin. Float32. */
export interface TensorNeed extends HeldName {
  readonly bytes: number;
}

/** What decides who holds what. */
export type NeedingPlan = Pick<Plan, 'summary' | 'mesh' | 'stages' | 'programs' | 'zero'>;

/** What each rank of a plan holds from step to step: parameters, optimizer slots, module state. By rank. */
export function tensorNeeds(model: Model, options: HeldOptions, plan: NeedingPlan): TensorNeed[][] {
  const decays = new Map(modelParams(model).map(({ path, spec }) => [path, spec.decay]));
  return plan.programs.map((_, rank) => {
    const { data, pipeline } = positionOf(plan.mesh, rank);
    const params = paramsOfRank(plan.summary, plan, rank).map(({ path, shape }) => ({
      path,
      shape,
      decay: decays.get(path) ?? false,
    }));
    const layers = plan.stages.filter((stage) => stage.pipelineRank === pipeline).flatMap(({ layers }) => layers);
    const state = layers.flatMap((layer) => stateOf(model, layer));
    const kept = keptSlots(plan, rank);
    const { optimizer } = options;
    const slots: typeof optimizer.slots = (param) => (!kept || kept.has(param.path) ? optimizer.slots(param) : []);
    return heldNames(params, state, data, { ...options, optimizer: { ...optimizer, slots } }).map((held) => ({
      ...held,
      bytes: bytesOf(held.shape),
    }));
  });
}

/** Paths of the parameters whose optimizer state a rank keeps, where it is sharded; null where each keeps all. */
function keptSlots({ summary, mesh, stages, zero }: NeedingPlan, rank: number): Set<string> | null {
  if (zero === 0) return null;
  const { data, pipeline } = positionOf(mesh, rank);
  const { member } = expertPosition(mesh, data);
  const layers = stages
    .filter((stage) => stage.pipelineRank === pipeline)
    .flatMap((stage) => stage.layers)
    .flatMap((index) => summary.layers[index] ?? []);
  const kept = new Set<string>();
  // Items as the workers have them: parameters, then the state of a layer as one.
  const share = (what: 'dense' | 'experts', items: readonly (ParamSummary | { readonly bytes: number })[]): void => {
    const { ranks } = reducingGroup(mesh, rank, what);
    const owners = shardOwners(
      items.map(({ bytes }) => bytes),
      ranks.length,
    );
    for (const [i, item] of items.entries())
      if (owners[i] === ranks.indexOf(rank) && 'path' in item) kept.add(item.path);
  };
  share(
    'dense',
    layers.flatMap(({ params, stateBytes }) => [...params, ...(stateBytes > 0 ? [{ bytes: stateBytes }] : [])]),
  );
  share(
    'experts',
    layers.flatMap(({ expertCalls }) =>
      expertCalls.flatMap(({ experts }) =>
        experts.filter((_, e) => expertMember(e, experts.length, mesh.expert) === member).flat(),
      ),
    ),
  );
  return kept;
}

/** State of a layer; that of the loss belongs to the last one. */
function stateOf(model: Model, index: number): { path: string; shape: readonly number[] }[] {
  const layer = model.layers[index];
  if (!layer) return [];
  const own = namedState(layer.module, layer.name);
  const loss = index === model.layers.length - 1 ? namedState(model.loss, LOSS_PATH) : [];
  return [...own, ...loss].map(({ path, spec }) => ({ path, shape: spec.shape }));
}

function bytesOf(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, Float32Array.BYTES_PER_ELEMENT);
}
