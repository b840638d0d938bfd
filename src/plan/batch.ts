import { PlanError } from './errors.ts';
import type { MeshShape } from './mesh.ts';
import type { MicrobatchRange } from './program.ts';

/** The one knob for the batch: examples in an optimizer step, and in one global microbatch. */
export interface BatchOptions {
  readonly global: number;
  readonly micro: number;
}

/** What follows from the batch and the mesh. */
export interface BatchPlan {
  readonly global: number;
  readonly micro: number;
  /** Global microbatches of a step. */
  readonly microbatches: number;
  /** The contiguous share of each data rank. */
  readonly shares: readonly MicrobatchRange[];
  /** Microbatches that the busiest data rank accumulates before the optimizer step. */
  readonly accumulation: number;
  /** One line that says how these numbers come about. */
  readonly explanation: string;
}

/** The global microbatches of data rank `data` of `ranks`: `[floor(r*m/D), floor((r+1)*m/D))`. */
export function shareOf(microbatches: number, ranks: number, data: number): MicrobatchRange {
  return {
    start: Math.floor((data * microbatches) / ranks),
    end: Math.floor(((data + 1) * microbatches) / ranks),
  };
}

/**
 * Derives the number of global microbatches, the share of each data rank and the accumulation.
 * @throws PlanError if the microbatch does not divide the batch, or the mesh cannot share the microbatches out.
 */
export function batchPlan(batch: BatchOptions, mesh: MeshShape): BatchPlan {
  const { global, micro } = batch;
  for (const [key, value] of Object.entries({ global, micro }))
    if (!Number.isInteger(value) || value < 1)
      throw new PlanError(`batch.${key} must be a positive whole number, but is ${value}`);
  if (global % micro !== 0) {
    const near = divisors(global).reduce((best, d) => (Math.abs(d - micro) < Math.abs(best - micro) ? d : best), 1);
    throw new PlanError(
      `batch.micro must divide batch.global, but ${micro} does not divide ${global}: set batch.micro to ${near} or batch.global to ${Math.ceil(global / micro) * micro}`,
    );
  }
  const microbatches = global / micro;
  if (microbatches < mesh.data)
    throw new PlanError(
      `every data rank needs a microbatch, but batch.global ${global} / batch.micro ${micro} gives ${microbatches} microbatches for parallel.data ${mesh.data}: ` +
        `set batch.global to ${mesh.data * micro}${global % mesh.data === 0 ? `, batch.micro to ${global / mesh.data}` : ''} or parallel.data to ${microbatches}`,
    );
  if (mesh.expert > 1 && microbatches % mesh.data !== 0)
    throw new PlanError(
      `with parallel.expert ${mesh.expert} all data ranks exchange tokens in step, so parallel.data ${mesh.data} must divide the ${microbatches} microbatches ` +
        `(batch.global ${global} / batch.micro ${micro}): set batch.global to ${Math.ceil(microbatches / mesh.data) * mesh.data * micro} or parallel.data to ${
          divisors(microbatches)
            .filter((d) => d <= mesh.data && d % mesh.expert === 0)
            .at(-1) ?? 1
        }`,
    );
  const shares = Array.from({ length: mesh.data }, (_, r) => shareOf(microbatches, mesh.data, r));
  const counts = shares.map((share) => share.end - share.start);
  const accumulation = Math.max(...counts);
  const least = Math.min(...counts);
  const each =
    mesh.data === 1
      ? `one data rank accumulates ${accumulation}`
      : least === accumulation
        ? `${mesh.data} data ranks accumulate ${accumulation} each`
        : `${mesh.data} data ranks accumulate ${least} to ${accumulation} each (uneven: ${mesh.data} does not divide ${microbatches})`;
  const explanation = `${global} examples a step = ${microbatches} microbatches of ${micro}; ${each}`;
  return { global, micro, microbatches, shares, accumulation, explanation };
}

function divisors(n: number): number[] {
  const out: number[] = [];
  for (let d = 1; d <= n; d++) if (n % d === 0) out.push(d);
  return out;
}
