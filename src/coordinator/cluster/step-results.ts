import type { StepReport } from '../../worker/index.ts';
import { finishMetrics } from '../metrics.ts';
import { ClusterError } from './errors.ts';

/** What results of steps are compared with. */
export interface StepResultsOptions {
  /** Whether a step must have the same bits whenever and wherever it is done. */
  readonly exact: boolean;
  readonly microbatches: number;
  /** What an earlier coordinator has noted of the steps before. */
  readonly past: readonly { readonly loss: number; readonly gradNorm: number }[];
}

interface Result {
  readonly loss: number;
  readonly gradNorm: number;
  readonly generation: number;
}

/** Remembers what each step came to, and compares when it is done again after a recovery. */
export class StepResults {
  readonly #options: StepResultsOptions;
  readonly #known: Result[];

  constructor(options: StepResultsOptions) {
    this.#options = options;
    this.#known = options.past.map(({ loss, gradNorm }) => ({ loss, gradNorm, generation: 0 }));
  }

  /** Null if a step was not completed before, or has the same result again; else what ends the run. */
  differs(step: number, reports: readonly StepReport[], generation: number): ClusterError | null {
    const metrics = reports.map((report) => report.metrics);
    const { loss } = finishMetrics(metrics, this.#options.microbatches);
    const now: Result = { loss: loss as number, gradNorm: reports[0]?.gradNorm as number, generation };
    const before = this.#known[step];
    this.#known[step] ??= now;
    if (!before || !this.#options.exact) return null;
    if (Object.is(before.loss, now.loss) && Object.is(before.gradNorm, now.gradNorm)) return null;
    return new ClusterError(
      `step ${step + 1} was computed twice with different results: loss ${before.loss}, gradient norm ${before.gradNorm} ` +
        `in generation ${before.generation}; loss ${now.loss}, gradient norm ${now.gradNorm} in generation ${now.generation}. ` +
        'Do all machines have the same processor features and engine version? (numerics: fast does without this check)',
    );
  }
}
