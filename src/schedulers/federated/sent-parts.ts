import type { LocalObjective, VectorLayout } from '../local/index.ts';

/** Elements [from, to) of a vector. */
export type Run = readonly [from: number, to: number];

/** Runs of a vector of `size` elements without the given ones, which are in rising order and apart. */
export function runsWithout(
  size: number,
  without: readonly { readonly offset: number; readonly size: number }[],
): Run[] {
  const runs: Run[] = [];
  let from = 0;
  for (const { offset, size: length } of without) {
    if (offset > from) runs.push([from, offset]);
    from = offset + length;
  }
  if (from < size) runs.push([from, size]);
  return runs;
}

/** The places of a vector of `size` elements that are in none of the runs. */
export function otherRuns(size: number, runs: readonly Run[]): Run[] {
  return runsWithout(
    size,
    runs.map(([from, to]) => ({ offset: from, size: to - from })),
  );
}

/** Elements in all runs. */
export function sizeOfRuns(runs: readonly Run[]): number {
  return runs.reduce((sum, [from, to]) => sum + to - from, 0);
}

/** The runs' elements one behind the other: a view of the vector where there is only one run, else a copy. */
export function gatherRuns(vector: Float32Array, runs: readonly Run[]): Float32Array {
  const [only] = runs;
  if (only && runs.length === 1) return vector.subarray(...only);
  const all = new Float32Array(sizeOfRuns(runs));
  let at = 0;
  for (const [from, to] of runs) {
    all.set(vector.subarray(from, to), at);
    at += to - from;
  }
  return all;
}

/** Puts elements that `gatherRuns` gave back in their places. */
export function scatterRuns(values: Float32Array, runs: readonly Run[], vector: Float32Array): void {
  let at = 0;
  for (const [from, to] of runs) {
    vector.set(values.subarray(at, at + to - from), from);
    at += to - from;
  }
}

/** What of the parameters goes between server and clients: all but what stays with a client. */
export function sentRuns({ personal }: Pick<LocalObjective, 'personal'>, { places, size }: VectorLayout): Run[] {
  return runsWithout(
    size,
    places.filter(({ path, shape }) => personal?.({ path, shape, decay: false }) ?? false),
  );
}
