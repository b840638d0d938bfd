/** Where a value that is not finite was noticed. */
export type NonFiniteWhere =
  | { readonly kind: 'loss'; readonly value: number; readonly microbatch: number; readonly step: number }
  | { readonly kind: 'activation'; readonly stage: number; readonly microbatch: number; readonly step: number }
  | { readonly kind: 'gradient'; readonly value: number; readonly path: string | null; readonly step: number };

/** A loss, an activation or a gradient that is NaN or infinite: training cannot go on from here. */
export class NonFinite extends Error {
  override readonly name = 'NonFinite';
  readonly where: NonFiniteWhere;
  /** First module whose output is not finite, or the parameter whose gradient is not; absolute, where known. */
  readonly path: string | null;

  constructor(where: NonFiniteWhere, found: { readonly path: string; readonly note: string } | null = null) {
    super(`${describe(where)}${found ? `; ${found.note}` : ''}. ${ADVICE}`);
    this.where = where;
    this.path = found?.path ?? (where.kind === 'gradient' ? where.path : null);
  }

  get microbatch(): number | null {
    return this.where.kind === 'gradient' ? null : this.where.microbatch;
  }
}

const ADVICE =
  'Usual causes: a learning rate that is too high, no gradient clipping (optim.clip_norm), a division or logarithm of zero in a module';

function describe(where: NonFiniteWhere): string {
  switch (where.kind) {
    case 'loss':
      return `the loss of microbatch ${where.microbatch} at step ${where.step} is ${where.value}`;
    case 'activation':
      return `an output of stage ${where.stage} for microbatch ${where.microbatch} at step ${where.step} is not finite`;
    case 'gradient':
      return `the gradient norm at step ${where.step} is ${where.value}${where.path ? `: the gradient of ${where.path} is not finite` : ''}`;
  }
}

/** Whether all elements are finite. */
export function isFiniteArray(data: Float32Array): boolean {
  // x * 0 is 0 for finite x and NaN otherwise; sums keep a NaN. One pass without branches, and four sums, so that an
  // addition need not wait for the one before.
  const [length, whole] = [data.length, data.length & ~3];
  let [sum, b, c, d] = [0, 0, 0, 0];
  for (let i = 0; i < whole; i += 4) {
    sum += (data[i] as number) * 0;
    b += (data[i + 1] as number) * 0;
    c += (data[i + 2] as number) * 0;
    d += (data[i + 3] as number) * 0;
  }
  for (let i = whole; i < length; i++) sum += (data[i] as number) * 0;
  sum += b + c + d;
  return sum === 0;
}
