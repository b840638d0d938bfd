/** Secure aggregation cannot be finished: too many clients left. */
export class SecAggError extends Error {
  override readonly name = 'SecAggError';
}

/** Shares of these neighbours were changed on their way, or sealed wrongly. */
export class UnreadableShares extends Error {
  override readonly name = 'UnreadableShares';
  readonly of: readonly number[];

  constructor(of: readonly number[]) {
    super(`the shares of client ${of.join(', ')} cannot be read: they were changed on their way, or sealed wrongly`);
    this.of = of;
  }
}
