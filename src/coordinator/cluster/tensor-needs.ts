import { LOSS_PATH, type Model, modelParams, namedState } from '../../modules/index.ts';
import { type Plan, paramsOfRank, positionOf } from '../../plan/index.ts';
import { type HeldName, type HeldOptions, heldNames } from '../held-names.ts';

/** A tensor that a rank must have to begin. Float32. */
export interface TensorNeed extends HeldName {
  readonly bytes: number;
}

/** What each rank of a plan holds from step to step: parameters, optimizer slots, module state. By rank. */
export function tensorNeeds(
  model: Model,
  options: HeldOptions,
  plan: Pick<Plan, 'summary' | 'mesh' | 'stages' | 'programs'>,
): TensorNeed[][] {
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
    return heldNames(params, state, data, options).map((held) => ({ ...held, bytes: bytesOf(held.shape) }));
  });
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
