/** A mesh, batch, schedule or program that cannot work. The message states the constraint, the values and the fix. */
export class PlanError extends Error {
  override readonly name: string = 'PlanError';
  /** Dotted path of the config key that is wrong, or null if several are as likely. */
  readonly key: string | null;

  constructor(message: string, options: { readonly key?: string; readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.key = options.key ?? null;
  }
}

/** Runs a check whose plan errors are about the given config key, unless they name one themselves. */
export function aboutKey<T>(key: string, check: () => T): T {
  try {
    return check();
  } catch (error) {
    if (!(error instanceof PlanError) || error.key !== null) throw error;
    throw new PlanError(error.message, { key, cause: error.cause });
  }
}
