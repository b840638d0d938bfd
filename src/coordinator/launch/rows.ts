import { predictionMicrobatch } from '../../plan/index.ts';
import type { LeafValues } from '../../worker/index.ts';
import type { PredictOptions } from '../session.ts';
import type { Workers } from './workers.ts';

/**
 * What the model reports of each of some examples, by name of the metric: see `Session.predict`.
 * @param micro examples of a microbatch of training
 * @param largest examples that a microbatch may have (`largestPrediction`)
 * @throws Error if a metric is not reported for each example
 */
export async function predictRows(
  workers: Workers,
  { split, examples, metrics }: PredictOptions,
  micro: number,
  largest: number,
): Promise<Record<string, Float32Array>> {
  const size = predictionMicrobatch(examples.length, micro, largest);
  const reports = await workers.evaluate(split, null, { examples, metrics, micro: size });
  return Object.fromEntries(metrics.map((name) => [name, rowsOf(reports, name, examples.length, size)]));
}

/**
 * A metric that has a row for each example of a microbatch, put together: `[examples, width]` as one vector.
 * @throws Error if it is not reported, or has no row for each example
 */
function rowsOf(
  reports: readonly Readonly<Record<string, LeafValues>>[],
  name: string,
  examples: number,
  micro: number,
): Float32Array {
  const leaves = new Map(reports.flatMap((report) => report[name] ?? []));
  const [first] = leaves.values();
  if (first === undefined && examples > 0)
    throw new Error(
      `no rank reported '${name}'; there are: ${[...new Set(reports.flatMap((report) => Object.keys(report)))].join(', ')}`,
    );
  const width = (Array.isArray(first) ? first.length : 1) / micro;
  if (!Number.isInteger(width))
    throw new Error(`'${name}' has ${width * micro} values for a microbatch of ${micro}: not a row for each example`);
  const rows = new Float32Array(examples * width);
  for (const [microbatch, values] of leaves) {
    const from = microbatch * micro * width;
    // The last microbatch may be filled up with examples that nobody asked for.
    const list = typeof values === 'number' ? [values] : values;
    rows.set(list.slice(0, Math.max(0, rows.length - from)), from);
  }
  return rows;
}
