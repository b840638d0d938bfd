/** A run folder or checkpoint that cannot be used: torn, of another model, or not there. */
export class CheckpointError extends Error {
  override readonly name = 'CheckpointError';
}
