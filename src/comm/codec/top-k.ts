/** Bins of the first pass: the sign is left out, the upper 16 bits of what is left are 2^15 of them. */
const BINS = 1 << 15;

/**
 * Sets all values to 0 but the `keep` of the largest magnitude; of equal ones the first. NaN and infinity count as the
 * largest. What was taken away is added to `residual`, which is overwritten: it becomes the values before minus those
 * after. Two passes over a histogram of the bit patterns, so the time does not depend on `keep`.
 */
export function keepTop(values: Float32Array, keep: number, residual: Float32Array): void {
  const { length } = values;
  if (residual.length !== length)
    throw new RangeError(`${length} values need a residual of as many, not ${residual.length}`);
  if (keep >= length) {
    residual.fill(0);
    return;
  }
  const bits = new Int32Array(values.buffer, values.byteOffset, length);
  const { threshold, ties } = cut(bits, keep);
  let left = ties;
  for (let i = 0; i < length; i++) {
    const magnitude = (bits[i] as number) & 0x7fffffff;
    const stays = magnitude > threshold || (magnitude === threshold && left-- > 0);
    residual[i] = stays ? 0 : (values[i] as number);
    if (!stays) bits[i] = 0;
  }
}

/** The magnitude (as bits) of the `keep`-th largest, and how many that are equal to it are kept. */
function cut(bits: Int32Array, keep: number): { threshold: number; ties: number } {
  if (keep <= 0) return { threshold: 0x7fffffff, ties: 0 };
  const upper = new Uint32Array(BINS);
  for (let i = 0; i < bits.length; i++) {
    const bin = ((bits[i] as number) & 0x7fffffff) >>> 16;
    upper[bin] = (upper[bin] as number) + 1;
  }
  const { bin: high, rest } = binOf(upper, keep);
  const lower = new Uint32Array(1 << 16);
  for (let i = 0; i < bits.length; i++) {
    const magnitude = (bits[i] as number) & 0x7fffffff;
    if (magnitude >>> 16 === high) {
      const bin = magnitude & 0xffff;
      lower[bin] = (lower[bin] as number) + 1;
    }
  }
  const { bin: low, rest: ties } = binOf(lower, rest);
  return { threshold: high * 65536 + low, ties };
}

/** The bin that holds the `count`-th from the top, and the how-manieth in it that is. */
function binOf(counts: Uint32Array, count: number): { bin: number; rest: number } {
  let rest = count;
  for (let bin = counts.length - 1; bin >= 0; bin--) {
    const here = counts[bin] as number;
    if (rest <= here) return { bin, rest };
    rest -= here;
  }
  throw new RangeError(`there are fewer than ${count} values`);
}

/**
 * Keeps what top-k has left out of one tensor and adds it to the next one (error feedback: Stich, Cordonnier and Jaggi
 * 2018, arXiv 1809.07599; Alistarh et al. 2018, arXiv 1809.10505). The residual is state of the rank that sends: it
 * belongs in its checkpoints.
 */
export class ErrorFeedback {
  /** What has been left out so far. */
  readonly residual: Float32Array;
  readonly #keep: number;

  /** Keeps `ratio` of the elements, at least one. */
  constructor(elements: number, ratio: number, residual: Float32Array = new Float32Array(elements)) {
    if (!(ratio > 0 && ratio <= 1)) throw new RangeError(`top-k keeps a ratio above 0 and up to 1, not ${ratio}`);
    this.residual = residual;
    this.#keep = Math.max(1, Math.round(elements * ratio));
  }

  /** Adds the residual to `values` and leaves the largest of the sums in them; the rest becomes the residual. */
  apply(values: Float32Array): void {
    const { residual } = this;
    for (let i = 0; i < values.length; i++) {
      const sum = (values[i] as number) + (residual[i] as number);
      values[i] = sum;
    }
    keepTop(values, this.#keep, residual);
  }
}
