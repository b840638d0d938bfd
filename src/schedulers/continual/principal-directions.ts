/** A direction in which rows extend, and the sum of their squares along it. */
export interface Direction {
  readonly unit: Float64Array;
  readonly energy: number;
}

/** Sweeps over all pairs; some ten are enough for any matrix. */
const SWEEPS = 30;
/** Cosine of two rows below which they count as orthogonal. */
const ORTHOGONAL = 1e-10;

/**
 * Right singular vectors of a matrix that is given by its rows, the largest first: pairs of rows are turned against each other until
 * all are orthogonal (one-sided Jacobi: Hestenes, Inversion of matrices by biorthogonalization, 1958). In double precision.
 */
export function principalDirections(given: readonly Float64Array[]): Direction[] {
  const rows = given.map((row) => row.slice());
  const energies = rows.map(energyOf);
  // Rows that are next to nothing beside the rest are left as they are.
  const floor = energies.reduce((a, b) => a + b, 0) * 1e-14;
  for (let sweep = 0, turned = true; turned && sweep < SWEEPS; sweep++) {
    turned = false;
    for (let p = 0; p < rows.length; p++)
      for (let q = p + 1; q < rows.length; q++) {
        const [a, b] = [energies[p] as number, energies[q] as number];
        if (a <= floor || b <= floor) continue;
        const [left, right] = [rows[p] as Float64Array, rows[q] as Float64Array];
        const inner = dot(left, right);
        if (Math.abs(inner) <= ORTHOGONAL * Math.sqrt(a * b)) continue;
        turned = true;
        const half = (b - a) / (2 * inner);
        const tangent = (half >= 0 ? 1 : -1) / (Math.abs(half) + Math.sqrt(1 + half * half));
        const cosine = 1 / Math.sqrt(1 + tangent * tangent);
        turn(left, right, cosine, cosine * tangent);
        energies[p] = energyOf(left);
        energies[q] = energyOf(right);
      }
  }
  return rows
    .map((row, i) => ({ row, energy: energies[i] as number }))
    .filter(({ energy }) => energy > floor)
    .sort((one, other) => other.energy - one.energy)
    .map(({ row, energy }) => ({ unit: row.map((value) => value / Math.sqrt(energy)), energy }));
}

/** A row without the part that lies in the span of orthonormal directions. */
export function outside(row: Float64Array, basis: readonly Float64Array[]): Float64Array {
  const left = row.slice();
  for (const unit of basis) {
    const along = dot(left, unit);
    for (let i = 0; i < left.length; i++) left[i] = (left[i] as number) - along * (unit[i] as number);
  }
  return left;
}

/** Sum of squares. */
export function energyOf(row: Float64Array): number {
  return dot(row, row);
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

function turn(left: Float64Array, right: Float64Array, cosine: number, sine: number): void {
  for (let i = 0; i < left.length; i++) {
    const [x, y] = [left[i] as number, right[i] as number];
    left[i] = cosine * x - sine * y;
    right[i] = sine * x + cosine * y;
  }
}
