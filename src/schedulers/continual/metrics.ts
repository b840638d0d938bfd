/** Accuracy on each task after each task: row t is what the model knows when task t has been learnt. */
export type AccuracyMatrix = readonly (readonly number[])[];

/** What an accuracy matrix comes to. Shares between 0 and 1. */
export interface ContinualMetrics {
  /** Mean of the last row. */
  readonly average_accuracy: number;
  /** Mean over the rows of the mean over the tasks seen so far. */
  readonly average_incremental_accuracy: number;
  /** Mean, over all but the last task, of what was lost since it was known best (Chaudhry et al., Riemannian Walk, 2018, section 3.2). */
  readonly forgetting: number;
  /** Mean of the last row minus the diagonal (Lopez-Paz and Ranzato, GEM, 2017, equation 3). */
  readonly backward_transfer: number;
  /** Mean of what is known of a task before it is learnt, minus what an untrained model knows (the same, equation 4). */
  readonly forward_transfer: number;
  /**
   * What a model that learns tasks together knows of each when it comes, minus the diagonal: the mean over the tasks. Only where that
   * is known (Chaudhry et al., Riemannian Walk, 2018, section 3.2).
   */
  readonly intransigence?: number;
}

/**
 * @param matrix a row for each task learnt, a column for each task
 * @param untrained accuracy on each task before anything was learnt
 * @param reference accuracy on each task of a model that has learnt it together with those before
 */
export function continualMetrics(
  matrix: AccuracyMatrix,
  untrained: readonly number[],
  reference: readonly number[] | null = null,
): ContinualMetrics {
  const last = matrix.at(-1) ?? [];
  const tasks = matrix.length;
  const at = (row: number, column: number): number => matrix[row]?.[column] ?? Number.NaN;
  const range = (count: number) => Array.from({ length: Math.max(0, count) }, (_, i) => i);
  return {
    average_accuracy: mean(last.slice(0, tasks)),
    average_incremental_accuracy: mean(matrix.map((row, t) => mean(row.slice(0, t + 1)))),
    forgetting: mean(
      range(tasks - 1).map(
        (task) =>
          Math.max(
            ...range(tasks - 1)
              .slice(task)
              .map((row) => at(row, task)),
          ) - at(tasks - 1, task),
      ),
    ),
    backward_transfer: mean(range(tasks - 1).map((task) => at(tasks - 1, task) - at(task, task))),
    forward_transfer: mean(range(tasks - 1).map((task) => at(task, task + 1) - (untrained[task + 1] ?? 0))),
    ...(reference
      ? { intransigence: mean(range(tasks).map((task) => (reference[task] ?? Number.NaN) - at(task, task))) }
      : {}),
  };
}

function mean(values: readonly number[]): number {
  return values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;
}
