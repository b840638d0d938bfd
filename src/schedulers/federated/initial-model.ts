import type { Execution } from '../../coordinator/index.ts';
import { initParams, initState, modelParams, modelState } from '../../modules/index.ts';
import type { HostTensor } from '../../tensor/index.ts';
import { partOf, type VectorLayout } from '../local/index.ts';
import { type Layouts, readModel, type SavedTensors } from './saved-tensors.ts';

/** Parameters and module state to begin with: drawn from the seed, or read from a checkpoint. */
export async function initialModel({ prepared }: Execution, layouts: Layouts, saved: SavedTensors | null) {
  const params = new Float32Array(layouts.params.size);
  const state = new Float32Array(layouts.state.size);
  const fill = (vector: Float32Array, layout: VectorLayout, tensors: Readonly<Record<string, HostTensor>>) => {
    for (const place of layout.places) partOf(vector, place).set(tensors[place.path]?.data as Float32Array);
  };
  if (saved) await readModel(saved, layouts, params, state);
  else {
    fill(params, layouts.params, initParams(modelParams(prepared.model), prepared.config.seed));
    fill(state, layouts.state, initState(modelState(prepared.model), prepared.config.seed));
  }
  return { params, state };
}
