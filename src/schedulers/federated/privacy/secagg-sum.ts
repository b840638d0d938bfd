import { dequantiseSum, type QuantiseOptions } from './quantise.ts';
import type { Unmasking } from './secagg-client.ts';
import { SecAggError } from './secagg-error.ts';
import type { SecAggServer } from './secagg-server.ts';

/** Why an update cannot be written as integers of the ring; null if it can. */
export function outsideRange(update: Float32Array, range: number): string | null {
  const largest = largestOf(update);
  // (A clipped norm may be above its bound by a rounding.)
  if (largest <= range * (1 + 1e-6)) return null;
  return `its update changes a value by ${largest.toPrecision(4)}, the range of secure aggregation is ${range}`;
}

/** A sum that clients cannot have sent: one of those who sent a vector or shares did not do as it should. */
export class ImpossibleSum extends SecAggError {}

/**
 * The weighted sum of the updates of those who sent one, as real numbers.
 * @param largest weight that counts as 1 where updates are masked: others go in as parts of it, so that nothing leaves the range
 * @throws SecAggError if too few shares came; ImpossibleSum if it is none of vectors within the range
 */
export function takeMasksOff(
  server: SecAggServer,
  answers: readonly Unmasking[],
  levels: QuantiseOptions,
  largest: number,
): Float32Array {
  const integers = server.finish(answers);
  const count = server.survivors().length;
  const most = count * levels.levels;
  const at = firstAbove(integers, most);
  if (at >= 0)
    throw new ImpossibleSum(
      `number ${at} of the sum of ${count} clients is one that they cannot have sent: one of them sent a wrong vector or wrong shares, and masks hide which`,
    );
  const sum = dequantiseSum(integers, count, levels);
  if (largest !== 1) for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) * largest;
  return sum;
}

/** Where the first number above a bound is, or -1. (`findIndex` takes ten times as long.) */
function firstAbove(numbers: Uint32Array, bound: number): number {
  for (let i = 0; i < numbers.length; i++) if ((numbers[i] as number) > bound) return i;
  return -1;
}

/** The largest absolute value; NaN if one is. */
function largestOf({ buffer, byteOffset, length }: Float32Array): number {
  // Without their signs the bits of floats are in the order of their sizes, and integers are compared in half the time; four at a time
  // do not wait for each other, which halves it again.
  const bits = new Int32Array(buffer, byteOffset, length);
  const fours = length - (length % 4);
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let i = 0; i < fours; i += 4) {
    const e = (bits[i] as number) & 0x7fffffff;
    const f = (bits[i + 1] as number) & 0x7fffffff;
    const g = (bits[i + 2] as number) & 0x7fffffff;
    const h = (bits[i + 3] as number) & 0x7fffffff;
    if (e > a) a = e;
    if (f > b) b = f;
    if (g > c) c = g;
    if (h > d) d = h;
  }
  for (let i = fours; i < length; i++) a = Math.max(a, (bits[i] as number) & 0x7fffffff);
  const largest = Math.max(a, b, c, d);
  return new Float32Array(Int32Array.of(largest).buffer)[0] as number;
}
