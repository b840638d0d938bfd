/** A run folder or checkpoint that cannot be used: torn, of another model, or not there. */
export class CheckpointError extends Error {
  override readonly name = 'CheckpointError';
}

/** A run folder that cannot be made; `key` is the key of the `run` section that is to blame. */
export class RunFolderError extends Error {
  override readonly name = 'RunFolderError';
  readonly key: 'dir' | 'id';

  constructor(key: 'dir' | 'id', message: string, cause: unknown) {
    super(message, { cause });
    this.key = key;
  }
}
