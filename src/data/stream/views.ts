import { createRng, permutation } from '../../tensor/index.ts';
import { type SharedArray, share, view } from '../shared-array.ts';

/**
 * Ways to look at an input: each element of what is seen is a weighted sum of `taps` elements of the input. Permutations
 * have one tap, rotations four (bilinear).
 */
export interface PreparedViews {
  /** Elements of an input. */
  readonly size: number;
  readonly taps: number;
  /** int32 `[views, size, taps]`: elements of the input; -1 for none. */
  readonly from: SharedArray;
  /** float32 of the same shape; null where all weights are 1. */
  readonly weights: SharedArray | null;
}

/** Changes inputs (one behind the other) to what is seen through a view each; view -1 leaves an input as it is. */
export function applyView(views: PreparedViews, inputs: Float32Array, which: Int32Array): void {
  const { size, taps } = views;
  const from = view(views.from, 'int32');
  const weights = views.weights && view(views.weights, 'float32');
  const before = new Float32Array(size);
  which.forEach((index, at) => {
    if (index < 0) return;
    const own = inputs.subarray(at * size, (at + 1) * size);
    before.set(own);
    const base = index * size * taps;
    if (taps === 1 && !weights) {
      // (A permutation of a batch took a tenth of a step of a wide MLP as a weighted sum.)
      for (let i = 0; i < size; i++) {
        const source = from[base + i] as number;
        own[i] = source < 0 ? 0 : (before[source] as number);
      }
      return;
    }
    for (let i = 0; i < size; i++) {
      let sum = 0;
      for (let tap = 0; tap < taps; tap++) {
        const place = base + i * taps + tap;
        const source = from[place] as number;
        if (source >= 0) sum += (weights ? (weights[place] as number) : 1) * (before[source] as number);
      }
      own[i] = sum;
    }
  });
}

/** `count` fixed permutations of the elements, drawn from the seed; the first is the identity. */
export function permutations(size: number, count: number, seed: number): PreparedViews {
  const from = new Int32Array(count * size);
  for (let index = 0; index < count; index++) {
    const order =
      index === 0
        ? Int32Array.from({ length: size }, (_, i) => i)
        : permutation(size, createRng(seed).fork('view', index));
    from.set(order, index * size);
  }
  return { size, taps: 1, from: share('int32', from), weights: null };
}

/** Rotations of square images about their middle by these angles in degrees, counter-clockwise, bilinear, dark outside. */
export function rotations(side: number, degrees: readonly number[]): PreparedViews {
  const size = side * side;
  const taps = 4;
  const from = new Int32Array(degrees.length * size * taps).fill(-1);
  const weights = new Float32Array(from.length);
  const middle = (side - 1) / 2;
  degrees.forEach((angle, index) => {
    const [sin, cos] = [Math.sin((angle * Math.PI) / 180), Math.cos((angle * Math.PI) / 180)];
    for (let row = 0; row < side; row++)
      for (let column = 0; column < side; column++) {
        const [y, x] = [row - middle, column - middle];
        // Where the pixel was before it was turned.
        const sourceX = cos * x - sin * y + middle;
        const sourceY = sin * x + cos * y + middle;
        const [left, top] = [Math.floor(sourceX), Math.floor(sourceY)];
        const place = (index * size + row * side + column) * taps;
        for (let tap = 0; tap < taps; tap++) {
          const [r, c] = [top + (tap >> 1), left + (tap & 1)];
          if (r < 0 || c < 0 || r >= side || c >= side) continue;
          from[place + tap] = r * side + c;
          weights[place + tap] = (1 - Math.abs(sourceY - r)) * (1 - Math.abs(sourceX - c));
        }
      }
  });
  return { size, taps, from: share('int32', from), weights: share('float32', weights) };
}
