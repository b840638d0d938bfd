import type { MeshShape } from '../plan/index.ts';

/** A mesh for another number of workers, and how it came about. */
export interface ScaledMesh extends MeshShape {
  readonly explanation: string;
}

const largestDivisor = (of: number, atMost: number): number => {
  for (let d = Math.min(of, atMost); d > 1; d--) if (of % d === 0) return d;
  return 1;
};

/**
 * The mesh that uses `workers` ranks: the pipeline keeps its depth if that divides them (otherwise the deepest that
 * does), the data axis takes the rest, and experts are spread over as many ranks as before or the next divisor below.
 * The result of a run does not depend on it (`numerics: exact`).
 */
export function scaleMesh(mesh: MeshShape, workers: number): ScaledMesh {
  const pipeline = largestDivisor(workers, mesh.pipeline);
  const data = workers / pipeline;
  const expert = largestDivisor(data, mesh.expert);
  const axis = (name: string, before: number, after: number): string =>
    before === after ? `${name} ${after}` : `${name} ${after} (was ${before})`;
  const explanation =
    `--workers ${workers}: ` +
    [
      axis('data', mesh.data, data),
      axis('pipeline', mesh.pipeline, pipeline),
      axis('expert', mesh.expert, expert),
    ].join(' × ');
  return { data, pipeline, expert, explanation };
}
