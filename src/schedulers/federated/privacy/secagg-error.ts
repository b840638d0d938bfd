/** Secure aggregation cannot be finished: too many clients left. */
export class SecAggError extends Error {
  override readonly name = 'SecAggError';
}
