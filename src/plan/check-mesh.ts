import { PlanError } from './errors.ts';
import type { MeshShape } from './mesh.ts';
import type { ModelSummary } from './summary.ts';

/**
 * Checks a mesh by itself and against a model.
 * @param chunks stages that each pipeline rank holds
 * @throws PlanError stating the constraint, the values and the fix
 */
export function checkMesh(mesh: MeshShape, model?: ModelSummary, chunks = 1): void {
  for (const key of ['data', 'pipeline', 'expert'] as const)
    if (!Number.isInteger(mesh[key]) || mesh[key] < 1)
      throw new PlanError(`parallel.${key} must be a positive whole number, but is ${mesh[key]}`);
  if (mesh.data % mesh.expert !== 0)
    throw new PlanError(
      `parallel.expert must divide parallel.data, since experts are sharded inside the data axis, but ${mesh.expert} does not divide ${mesh.data}: ` +
        `set parallel.data to ${Math.ceil(mesh.data / mesh.expert) * mesh.expert} or parallel.expert to ${commonDivisor(mesh.data, mesh.expert)}`,
    );
  if (!model) return;
  const stages = mesh.pipeline * chunks;
  if (stages > model.layers.length)
    throw new PlanError(
      chunks > 1
        ? `every stage needs a layer, but parallel.pipeline ${mesh.pipeline} * chunks ${chunks} = ${stages} stages and the model has ${model.layers.length} layers: set parallel.chunks to at most ${Math.max(1, Math.floor(model.layers.length / mesh.pipeline))}, or use fewer pipeline ranks`
        : `every pipeline rank needs a layer, but parallel.pipeline is ${mesh.pipeline} and the model has ${model.layers.length} layers: set parallel.pipeline to at most ${model.layers.length}`,
      { key: 'parallel.pipeline' },
    );
  for (const layer of model.layers)
    for (const call of layer.expertCalls)
      if (call.experts.length % mesh.expert !== 0)
        throw new PlanError(
          `parallel.expert must divide the number of experts, but ${mesh.expert} does not divide the ${call.experts.length} experts of "${call.path}": ` +
            `set parallel.expert to ${commonDivisor(call.experts.length, mesh.expert)}, or give the model ${Math.ceil(call.experts.length / mesh.expert) * mesh.expert} experts`,
          { key: 'parallel.expert' },
        );
}

function commonDivisor(a: number, b: number): number {
  return b === 0 ? a : commonDivisor(b, a % b);
}
