/** Median and extremes of repeated timings, in milliseconds. */
export interface Timing {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly runs: number;
}

export function timing(samples: readonly number[]): Timing {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return {
    median: sorted[middle] as number,
    min: sorted[0] as number,
    max: sorted.at(-1) as number,
    runs: sorted.length,
  };
}

export function timingText({ median, min, max, runs }: Timing): string {
  return `${median.toFixed(1)} ms (${min.toFixed(1)}-${max.toFixed(1)}, ${runs} runs)`;
}
