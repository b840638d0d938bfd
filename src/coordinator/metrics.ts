import { treeSum } from '../comm/index.ts';
import type { LeafValues } from '../worker/index.ts';

/** A metric averaged over global microbatches: a number, or one for each element of a vector (tokens per expert, say). */
export type Metric = number | readonly number[];

/** Metrics by name: `loss`, `accuracy`, `blocks.1.moe.balance`. */
export type Metrics = Readonly<Record<string, Metric>>;

/**
 * Averages what the ranks reported for each microbatch. Leaves are summed in float32 in the canonical tree over
 * `microbatches` leaves and divided by their number, so the result does not depend on which rank computed which leaf.
 * @throws Error if a metric lacks a microbatch or two ranks report the same one: a bug in a program.
 */
export function finishMetrics(reports: readonly Readonly<Record<string, LeafValues>>[], microbatches: number): Metrics {
  const names = new Set(reports.flatMap((report) => Object.keys(report)));
  const finished: Record<string, Metric> = {};
  for (const name of names) {
    const leaves = new Array<number | readonly number[] | undefined>(microbatches).fill(undefined);
    for (const report of reports)
      for (const [microbatch, value] of report[name] ?? []) {
        if (leaves[microbatch] !== undefined)
          throw new Error(`metric '${name}' of microbatch ${microbatch} was reported twice`);
        leaves[microbatch] = value;
      }
    const missing = leaves.indexOf(undefined);
    if (missing >= 0 || leaves.length === 0)
      throw new Error(`metric '${name}' of microbatch ${missing} of ${microbatches} was not reported by any rank`);
    finished[name] = average(leaves as (number | readonly number[])[]);
  }
  return finished;
}

function average(leaves: readonly (number | readonly number[])[]): Metric {
  const first = leaves[0] as number | readonly number[];
  const mean = (values: readonly number[]): number => Math.fround(treeSum(values) / values.length);
  if (typeof first === 'number') return mean(leaves as number[]);
  return first.map((_, i) => mean((leaves as (readonly number[])[]).map((leaf) => leaf[i] as number)));
}
