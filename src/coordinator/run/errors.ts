/** A run folder or checkpoint that cannot be used: torn, of another model, or not there. */
export class CheckpointError extends Error {
  override readonly name = 'CheckpointError';
  /** Folder of the newest checkpoint that can be resumed from, where a run ends with this. */
  checkpoint: string | null = null;
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

/** Whether something could not be written because there is no room: a full disk, a quota, a limit on files' size. */
export function isFull(error: unknown): boolean {
  for (let at = error; at instanceof Error; at = at.cause)
    if (['ENOSPC', 'EDQUOT', 'EFBIG'].includes((at as NodeJS.ErrnoException).code ?? '')) return true;
  return false;
}
