import type { Execution } from '../../coordinator/index.ts';
import { initParams, initState, modelParams, modelState } from '../../modules/index.ts';
import { vectorOf } from '../local/index.ts';
import { type Layouts, readModel, type SavedTensors } from './saved-tensors.ts';

/** Parameters and module state to begin with: drawn from the seed, or read from a checkpoint. */
export async function initialModel({ prepared }: Execution, layouts: Layouts, saved: SavedTensors | null) {
  if (saved) {
    const [params, state] = [new Float32Array(layouts.params.size), new Float32Array(layouts.state.size)];
    await readModel(saved, layouts, params, state);
    return { params, state };
  }
  const { model, config } = prepared;
  return {
    params: vectorOf(layouts.params, initParams(modelParams(model), config.seed)),
    state: vectorOf(layouts.state, initState(modelState(model), config.seed)),
  };
}
