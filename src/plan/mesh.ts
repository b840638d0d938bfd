/**
 * Sizes of the mesh axes. `expert` divides `data`: experts are sharded over groups of `expert` consecutive data ranks,
 * and dense parameters are replicated over the whole data axis (as in Megatron and DeepSpeed).
 */
export interface MeshShape {
  readonly data: number;
  readonly pipeline: number;
  readonly expert: number;
}

/** Position of a rank: `rank = pipeline * shape.data + data` (pipeline is the outermost axis). */
export interface MeshPosition {
  readonly data: number;
  readonly pipeline: number;
}

/** Number of ranks. */
export function worldSize(mesh: MeshShape): number {
  return mesh.data * mesh.pipeline;
}

/** Rank at a position of the mesh. */
export function rankAt(mesh: MeshShape, position: MeshPosition): number {
  return position.pipeline * mesh.data + position.data;
}

/** Position of a rank of the mesh. */
export function positionOf(mesh: MeshShape, rank: number): MeshPosition {
  return { data: rank % mesh.data, pipeline: Math.floor(rank / mesh.data) };
}
