import type { Rng, Shape } from '../tensor/index.ts';
import { sizeOf } from '../tensor/index.ts';
import type { Initializer } from './module.ts';

/** How many inputs feed one output of a weight, and how many outputs one input feeds. */
export interface Fans {
  readonly fanIn: number;
  readonly fanOut: number;
}

/**
 * Fans of a weight in Plexus' layouts: `[in, out]` for linear, `[...kernel, in, out]` for convolutions; the kernel's
 * taps multiply both. A vector counts as one input.
 */
export function fansOf(shape: Shape): Fans {
  const fanOut = shape[shape.length - 1] ?? 1;
  const fanIn = shape.length > 1 ? (shape[shape.length - 2] as number) : 1;
  const taps = sizeOf(shape.slice(0, -2));
  return { fanIn: fanIn * taps, fanOut: fanOut * taps };
}

/** All zeros. */
export const zeros: Initializer = (_rng, shape) => new Float32Array(sizeOf(shape));

/** All ones. */
export const ones: Initializer = (_rng, shape) => new Float32Array(sizeOf(shape)).fill(1);

/** Every element `value`. */
export function constant(value: number): Initializer {
  return (_rng, shape) => new Float32Array(sizeOf(shape)).fill(value);
}

/** Given values, copied (pretrained weights). @throws RangeError if their number is not the shape's size. */
export function values(data: Float32Array): Initializer {
  return (_rng, shape) => {
    if (data.length !== sizeOf(shape))
      throw new RangeError(`${data.length} initial values were given for a parameter of shape [${shape}]`);
    return data.slice();
  };
}

/** Normal with mean 0. */
export function normal(std: number): Initializer {
  return (rng, shape) => rng.fillNormal(new Float32Array(sizeOf(shape)), 0, std);
}

/** Normal with mean 0, redrawn until within `cutoff` standard deviations. `std` is that of the normal before the cut. */
export function truncatedNormal(std: number, cutoff = 2): Initializer {
  return (rng, shape) => {
    const out = new Float32Array(sizeOf(shape));
    for (let i = 0; i < out.length; i++) {
      let draw = rng.normal();
      while (Math.abs(draw) > cutoff) draw = rng.normal();
      out[i] = draw * std;
    }
    return out;
  };
}

/** Uniform in [-bound, bound). */
export function uniform(bound: number): Initializer {
  return (rng, shape) => rng.fillUniform(new Float32Array(sizeOf(shape)), -bound, bound);
}

/** Uniform with variance gain² * 2 / (fanIn + fanOut) (Glorot and Bengio 2010). */
export function xavierUniform(gain = 1): Initializer {
  return byFans(({ fanIn, fanOut }) => uniform(gain * Math.sqrt(6 / (fanIn + fanOut))));
}

/** Normal with variance gain² * 2 / (fanIn + fanOut) (Glorot and Bengio 2010). */
export function xavierNormal(gain = 1): Initializer {
  return byFans(({ fanIn, fanOut }) => normal(gain * Math.sqrt(2 / (fanIn + fanOut))));
}

/** Uniform with variance gain² / fanIn (He et al. 2015); the default gain, √2, suits relu. */
export function kaimingUniform(gain = Math.SQRT2): Initializer {
  return byFans(({ fanIn }) => uniform(gain * Math.sqrt(3 / fanIn)));
}

/** Normal with variance gain² / fanIn (He et al. 2015); the default gain, √2, suits relu. */
export function kaimingNormal(gain = Math.SQRT2): Initializer {
  return byFans(({ fanIn }) => normal(gain / Math.sqrt(fanIn)));
}

/**
 * Orthogonal rows or columns, whichever are fewer, times `gain` (Saxe et al. 2014): the Q of a normal matrix, by
 * modified Gram-Schmidt in double precision, which is uniform over orthogonal matrices because R's diagonal is positive.
 */
export function orthogonal(gain = 1): Initializer {
  return (rng, shape) => {
    const columns = shape[shape.length - 1] ?? 1;
    const rows = sizeOf(shape) / columns;
    const count = Math.min(rows, columns);
    const length = Math.max(rows, columns);
    const basis = orthonormalBasis(rng, count, length);
    const out = new Float32Array(rows * columns);
    for (let v = 0; v < count; v++)
      for (let i = 0; i < length; i++) {
        const value = gain * ((basis[v] as Float64Array)[i] as number);
        if (rows <= columns) out[v * columns + i] = value;
        else out[i * columns + v] = value;
      }
    return out;
  };
}

function orthonormalBasis(rng: Rng, count: number, length: number): Float64Array[] {
  const basis: Float64Array[] = [];
  while (basis.length < count) {
    const vector = Float64Array.from({ length }, () => rng.normal());
    // Twice is enough (Kahan): the second sweep removes what rounding left of the first.
    for (let sweep = 0; sweep < 2; sweep++)
      for (const other of basis) {
        const projection = dot(vector, other);
        for (let i = 0; i < length; i++) vector[i] = (vector[i] as number) - projection * (other[i] as number);
      }
    const norm = Math.sqrt(dot(vector, vector));
    if (norm < 1e-8) continue;
    for (let i = 0; i < length; i++) vector[i] = (vector[i] as number) / norm;
    basis.push(vector);
  }
  return basis;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

function byFans(choose: (fans: Fans) => Initializer): Initializer {
  return (rng, shape) => choose(fansOf(shape))(rng, shape);
}
