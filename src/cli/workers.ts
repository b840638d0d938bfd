import type { Override } from '../coordinator/index.ts';
import type { MeshShape } from '../plan/index.ts';

/** A mesh for another number of workers, and how it came about. */
export interface ScaledMesh extends MeshShape {
  readonly explanation: string;
  /** Sets the mesh in a config; messages name the flag that was typed. */
  readonly overrides: readonly Override[];
}

const largestDivisor = (of: number, atMost: number): number => {
  for (let d = Math.min(of, atMost); d > 1; d--) if (of % d === 0) return d;
  return 1;
};

const greatestCommonDivisor = (a: number, b: number): number => (b === 0 ? a : greatestCommonDivisor(b, a % b));

/**
 * The mesh that uses `workers` ranks: the pipeline keeps its depth if that divides them (otherwise the deepest that
 * does), the data axis takes the rest, and experts are spread over as many ranks as before, or as
 * many as divide both that and the data axis.
 * The result of a run does not depend on it (`numerics: exact`).
 */
export function scaleMesh(mesh: MeshShape, workers: number): ScaledMesh {
  const pipeline = largestDivisor(workers, mesh.pipeline);
  const data = workers / pipeline;
  // A divisor of what it was, so that it still divides the number of experts.
  const expert = greatestCommonDivisor(data, mesh.expert);
  const axis = (name: string, before: number, after: number): string =>
    before === after ? `${name} ${after}` : `${name} ${after} (was ${before})`;
  const explanation =
    `--workers ${workers}: ` +
    [
      axis('data', mesh.data, data),
      axis('pipeline', mesh.pipeline, pipeline),
      axis('expert', mesh.expert, expert),
    ].join(' × ');
  const flag = `--workers ${workers}`;
  const overrides = Object.entries({ data, pipeline, expert }).map(([key, value]) => ({
    flag,
    path: ['parallel', key],
    value,
  }));
  return { data, pipeline, expert, explanation, overrides };
}
