import { expect } from 'vitest';

/** Parameters of a reference, in float64. */
export type Vector = Float64Array;

/** The sum of vectors, each times its factor. */
export function sumOf(...terms: readonly (readonly [factor: number, vector: Vector])[]): Vector {
  const [first] = terms;
  if (!first) throw new Error('there is nothing to add up');
  return first[1].map((_, i) => terms.reduce((sum, [factor, vector]) => sum + factor * (vector[i] as number), 0));
}

/** The mean of vectors, with weights. */
export function average(vectors: readonly Vector[], weights: readonly number[] = vectors.map(() => 1)): Vector {
  const total = weights.reduce((a, b) => a + b, 0);
  return sumOf(...vectors.map((vector, k) => [(weights[k] as number) / total, vector] as const));
}

/** Expects numbers to be those of a reference, to so many digits. */
export function close(found: ArrayLike<number>, expected: ArrayLike<number>, digits = 4): void {
  expect(found.length).toBe(expected.length);
  for (let i = 0; i < expected.length; i++) expect(found[i]).toBeCloseTo(expected[i] as number, digits);
}
