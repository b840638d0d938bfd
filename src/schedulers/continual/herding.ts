/** Rows divided by their lengths; rows of zeros stay. */
export function normalised(rows: Float32Array, width: number): Float32Array {
  const out = rows.slice();
  for (let at = 0; at < rows.length; at += width) {
    let squares = 0;
    for (let i = 0; i < width; i++) squares += (rows[at + i] as number) ** 2;
    const length = Math.sqrt(squares);
    if (length > 0) for (let i = 0; i < width; i++) out[at + i] = (rows[at + i] as number) / length;
  }
  return out;
}

/** The mean of some rows. */
export function meanOf(features: Float32Array, width: number, rows: Int32Array): Float32Array {
  const sums = new Float64Array(width);
  for (const row of rows)
    for (let i = 0; i < width; i++) sums[i] = (sums[i] as number) + (features[row * width + i] as number);
  return Float32Array.from(sums, (sum) => sum / rows.length);
}

/**
 * `count` of the candidate rows, as places in `candidates`, chosen one after another so that the mean of those chosen is always as near
 * as can be to the mean of all (Rebuffi et al., iCaRL, 2017, algorithm 4).
 */
export function herd(features: Float32Array, width: number, candidates: Int32Array, count: number): Int32Array {
  const mean = meanOf(features, width, candidates);
  const dot = (row: number, vector: Float32Array, offset: number): number => {
    let sum = 0;
    const from = row * width;
    for (let i = 0; i < width; i++) sum += (features[from + i] as number) * (vector[offset + i] as number);
    return sum;
  };
  const toMean = Float64Array.from(candidates, (row) => dot(row, mean, 0));
  const squares = Float64Array.from(candidates, (row) => dot(row, features, row * width));
  // Inner products with the sum of those chosen so far.
  const toChosen = new Float64Array(candidates.length);
  const free = new Uint8Array(candidates.length).fill(1);
  return Int32Array.from({ length: Math.min(count, candidates.length) }, (_, taken) => {
    const k = taken + 1;
    // |mean - (x + sum) / k|^2, times k^2, without what all of them share: x.x + 2 x.sum - 2 k x.mean.
    let [best, least] = [-1, Number.POSITIVE_INFINITY];
    for (let i = 0; i < candidates.length; i++) {
      const distance = (squares[i] as number) + 2 * (toChosen[i] as number) - 2 * k * (toMean[i] as number);
      if (free[i] === 1 && distance < least) [best, least] = [i, distance];
    }
    free[best] = 0;
    const row = candidates[best] as number;
    for (let i = 0; i < candidates.length; i++)
      if (free[i] === 1) toChosen[i] = (toChosen[i] as number) + dot(candidates[i] as number, features, row * width);
    return best;
  });
}
