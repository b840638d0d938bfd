import { createRng } from '../../tensor/index.ts';

/** A square matrix by its rows. */
type Matrix = readonly Float64Array[];

/** A normal distribution: its mean, and L of its covariance L L'. Plain data. */
export interface Gaussian {
  readonly mean: readonly number[];
  readonly factor: readonly (readonly number[])[];
}

/**
 * L of a symmetric matrix L L', lower triangular.
 * @throws RangeError if the matrix is not positive definite
 */
export function cholesky(matrix: Matrix): Float64Array[] {
  const lower = matrix.map((row) => new Float64Array(row.length));
  for (const [i, row] of lower.entries())
    for (let j = 0; j <= i; j++) {
      const other = lower[j] as Float64Array;
      let value = matrix[i]?.[j] as number;
      for (let k = 0; k < j; k++) value -= (row[k] as number) * (other[k] as number);
      if (i === j && !(value > 0))
        throw new RangeError(`the matrix is not positive definite: ${value} is left at diagonal place ${i}`);
      row[j] = i === j ? Math.sqrt(value) : value / (other[j] as number);
    }
  return lower;
}

/** x of L x = b. */
export function solveLower(lower: readonly ArrayLike<number>[], b: ArrayLike<number>): Float64Array {
  const x = new Float64Array(b.length);
  for (const [i, row] of lower.entries()) {
    let value = b[i] as number;
    for (let k = 0; k < i; k++) value -= (row[k] as number) * (x[k] as number);
    x[i] = value / (row[i] as number);
  }
  return x;
}

/**
 * Rows of `width` numbers as rows of `dims` ones, by a matrix of independent normal numbers that is the same for equal seeds and widths.
 * Few numbers have a covariance that can be told from few rows.
 */
export function randomProjection(
  rows: Float32Array,
  { width, dims, seed }: { readonly width: number; readonly dims: number; readonly seed: number },
): Float64Array[] {
  const rng = createRng(seed).fork('random projection', width);
  const matrix = rng.fillNormal(new Float32Array(width * dims), 0, 1 / Math.sqrt(width));
  return Array.from({ length: rows.length / width }, (_, row) => {
    const out = new Float64Array(dims);
    for (let i = 0; i < width; i++) {
      const value = rows[row * width + i] as number;
      for (let d = 0; d < dims; d++) out[d] = (out[d] as number) + value * (matrix[i * dims + d] as number);
    }
    return out;
  });
}

/** Share of the mean variance that each variance gets besides: directions in which few rows happen not to differ are not ruled out. */
const RIDGE = 0.05;

/** The normal distribution with the mean and covariance of rows. */
export function gaussianOf(rows: readonly Float64Array[]): Gaussian {
  const dims = rows[0]?.length ?? 0;
  const mean = Float64Array.from(
    { length: dims },
    (_, d) => rows.reduce((sum, row) => sum + (row[d] as number), 0) / rows.length,
  );
  const covariance = Array.from({ length: dims }, (_, i) =>
    Float64Array.from({ length: dims }, (_, j) => {
      const product = (row: Float64Array) =>
        ((row[i] as number) - (mean[i] as number)) * ((row[j] as number) - (mean[j] as number));
      return rows.reduce((sum, row) => sum + product(row), 0) / rows.length;
    }),
  );
  const variance = covariance.reduce((sum, row, i) => sum + (row[i] as number), 0) / dims;
  for (const [i, row] of covariance.entries()) row[i] = (row[i] as number) + RIDGE * variance + 1e-9;
  return { mean: [...mean], factor: cholesky(covariance).map((row) => [...row]) };
}

/** Mean log density of rows. */
export function logLikelihood({ mean, factor }: Gaussian, rows: readonly Float64Array[]): number {
  const constant = factor.reduce(
    (sum, row, i) => sum + Math.log(row[i] as number),
    (mean.length / 2) * Math.log(2 * Math.PI),
  );
  const total = rows.reduce((sum, row) => {
    const distances = solveLower(
      factor,
      Float64Array.from(row, (value, d) => value - (mean[d] as number)),
    );
    return sum + distances.reduce((all, value) => all + value * value, 0) / 2;
  }, 0);
  return -total / rows.length - constant;
}

/** What is known of a function at some points. */
export interface Observed {
  readonly at: readonly number[];
  /** Values less their mean beforehand. */
  readonly values: readonly number[];
}

/**
 * Mean and standard deviation of a Gaussian process at each point, given some that have been observed (Rasmussen and Williams, Gaussian
 * processes for machine learning, 2006, equations 2.25 and 2.26).
 * @param kernel covariances of all points
 * @param noise variance of observations
 */
export function posterior(
  kernel: Matrix,
  { at, values }: Observed,
  noise: number,
): { readonly mean: number; readonly deviation: number }[] {
  const between = (i: number, j: number): number => kernel[i]?.[j] as number;
  const lower = cholesky(at.map((i) => Float64Array.from(at, (j) => between(i, j) + (i === j ? noise : 0))));
  const whitened = solveLower(lower, values);
  return kernel.map((_, point) => {
    const known = solveLower(
      lower,
      at.map((i) => between(i, point)),
    );
    const mean = known.reduce((sum, value, k) => sum + value * (whitened[k] as number), 0);
    const explained = known.reduce((sum, value) => sum + value * value, 0);
    return { mean, deviation: Math.sqrt(Math.max(0, between(point, point) - explained)) };
  });
}
