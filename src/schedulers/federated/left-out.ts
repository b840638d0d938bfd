import type { MetricsLine } from '../../coordinator/index.ts';

/** Whom and what a run did without. */
export interface LeftOut {
  /** Rounds that did not change the parameters, and why the last of them did not; absent where all counted. */
  readonly rounds_uncounted?: number;
  readonly uncounted?: string;
  /** How often clients were asked and are not part of a round, by reason, the most frequent first; absent where none was. */
  readonly left_out?: Readonly<Record<string, number>>;
}

/** Finds out whom a run did without, from its metrics. Reasons that differ in numbers alone are one. */
export function leftOut(lines: readonly MetricsLine[]): LeftOut {
  const uncounted = lines.filter((line) => line.counted === false);
  const times = new Map<string, number>();
  for (const line of lines)
    for (const { reason } of (line.dropped_clients ?? []) as readonly { readonly reason: string }[]) {
      const kind = reason.replace(/\d+(\.\d+)?(e[+-]?\d+)?/g, '#');
      times.set(kind, (times.get(kind) ?? 0) + 1);
    }
  const why = uncounted.at(-1)?.uncounted;
  return {
    ...(uncounted.length > 0 ? { rounds_uncounted: uncounted.length } : {}),
    ...(typeof why === 'string' ? { uncounted: why } : {}),
    ...(times.size > 0 ? { left_out: Object.fromEntries([...times].sort((a, b) => b[1] - a[1])) } : {}),
  };
}
