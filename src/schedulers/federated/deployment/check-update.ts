/** Norm above which no update can be meant, whatever the config allows: sums of such would leave float32. */
const ABSURD_NORM = 1e15;

/** How far a norm may be above what it was clipped to, by roundings. */
const CLIP_TOLERANCE = 1e-4;

/** Why an update is not used. `malicious`: no honest client would have sent it. */
export class BadUpdate extends Error {
  override readonly name = 'BadUpdate';
  readonly malicious: boolean;

  constructor(message: string, malicious: boolean) {
    super(message);
    this.malicious = malicious;
  }
}

/**
 * Checks an update before it is added to others': its length, that all numbers are finite, and its norm.
 * @param expected `clipNorm`: bound that it was to be clipped to, beyond which no honest one is; `maxNorm`: beyond which it is not used;
 *   `params`: numbers of parameters at its beginning, which the norm is of
 * @returns the Euclidean norm of the parameters' part
 * @throws BadUpdate naming what was found and expected
 */
export function checkUpdate(
  update: Float32Array,
  expected: {
    readonly params: number;
    readonly state: number;
    readonly maxNorm: number | null;
    readonly clipNorm?: number | null;
  },
): number {
  const { params, state, maxNorm, clipNorm = null } = expected;
  if (update.length !== params + state)
    throw new BadUpdate(`its update has ${update.length} numbers, ${params + state} were expected`, true);
  let squares = 0;
  for (let i = 0; i < update.length; i++) {
    const value = update[i] as number;
    if (!Number.isFinite(value)) throw new BadUpdate(`number ${i} of its update is ${value}`, true);
    if (i < params) squares += value * value;
    else if (Math.abs(value) > ABSURD_NORM) throw new BadUpdate(`number ${i} of its update is ${value}`, true);
  }
  const norm = Math.sqrt(squares);
  if (norm > ABSURD_NORM) throw new BadUpdate(`the norm of its update is ${norm.toPrecision(4)}`, true);
  if (clipNorm !== null && norm > clipNorm * (1 + CLIP_TOLERANCE))
    throw new BadUpdate(
      `the norm of its update is ${norm.toPrecision(4)}, and it was to be clipped to ${clipNorm.toPrecision(4)}`,
      true,
    );
  if (maxNorm !== null && norm > maxNorm)
    throw new BadUpdate(`the norm of its update is ${norm.toPrecision(4)}, the bound ${maxNorm}`, false);
  return norm;
}
