/** Norm above which no update can be meant, whatever the config allows: sums of such would leave float32. */
const ABSURD_NORM = 1e15;

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
 * @param params numbers of parameters at its beginning, which the norm is of
 * @returns the Euclidean norm of the parameters' part
 * @throws BadUpdate naming what was found and expected
 */
export function checkUpdate(
  update: Float32Array,
  expected: { readonly params: number; readonly state: number; readonly maxNorm: number | null },
): number {
  const { params, state, maxNorm } = expected;
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
  if (maxNorm !== null && norm > maxNorm)
    throw new BadUpdate(`the norm of its update is ${norm.toPrecision(4)}, the bound ${maxNorm}`, false);
  return norm;
}
