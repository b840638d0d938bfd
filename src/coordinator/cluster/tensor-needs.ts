import { LOSS_PATH, type Model, modelParams, namedState } from '../../modules/index.ts';
import type { Optimizer } from '../../optim/index.ts';
import { type Plan, paramsOfRank, positionOf } from '../../plan/index.ts';
import { tensorName } from '../../worker/index.ts';

/** A tensor that a rank must have to begin. Float32. */
export interface TensorNeed {
  /** As in checkpoints. */
  readonly name: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** What each rank of a plan holds from step to step: parameters, optimizer slots, module state. By rank. */
export function tensorNeeds(
  model: Model,
  optimizer: Optimizer,
  plan: Pick<Plan, 'summary' | 'mesh' | 'stages' | 'programs'>,
): TensorNeed[][] {
  const decays = new Map(modelParams(model).map(({ path, spec }) => [path, spec.decay]));
  return plan.programs.map((_, rank) => {
    const { pipeline } = positionOf(plan.mesh, rank);
    const params = paramsOfRank(plan.summary, plan, rank).flatMap(({ path, shape }) => [
      need(tensorName.param(path), shape),
      ...optimizer
        .slots({ path, shape, decay: decays.get(path) ?? false })
        .map((slot) => need(tensorName.slot(slot, path), shape)),
    ]);
    const layers = plan.stages.filter((stage) => stage.pipelineRank === pipeline).flatMap(({ layers }) => layers);
    return [...params, ...layers.flatMap((layer) => stateOf(model, layer))];
  });
}

/** State of a layer; that of the loss belongs to the last one. */
function stateOf(model: Model, index: number): TensorNeed[] {
  const layer = model.layers[index];
  if (!layer) return [];
  const own = namedState(layer.module, layer.name);
  const loss = index === model.layers.length - 1 ? namedState(model.loss, LOSS_PATH) : [];
  return [...own, ...loss].map(({ path, spec }) => need(tensorName.state(path), spec.shape));
}

function need(name: string, shape: readonly number[]): TensorNeed {
  return { name, shape, bytes: shape.reduce((product, dim) => product * dim, Float32Array.BYTES_PER_ELEMENT) };
}
