import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { ResolvedModel } from '../../modules/index.ts';
import { writeFileAtomically } from './atomic.ts';
import { CheckpointError } from './errors.ts';
import type { RunFolder } from './folder.ts';

/**
 * Keeps the model as the run was started with it, so that evaluation, generation and resuming do not depend on a module
 * file that has changed since. A bundle lies in the run folder and is named relative to it.
 */
export async function writeModelFile(folder: RunFolder, model: ResolvedModel): Promise<void> {
  const stored = 'bundle' in model ? { ...model, bundle: basename(model.bundle) } : model;
  await writeFileAtomically(folder.model, `${JSON.stringify(stored, null, 1)}\n`);
}

/** @throws CheckpointError if the run folder has no readable model.json */
export async function readModelFile(folder: RunFolder): Promise<ResolvedModel> {
  try {
    const stored = JSON.parse(await readFile(folder.model, 'utf8')) as ResolvedModel;
    return 'bundle' in stored ? { ...stored, bundle: join(folder.path, stored.bundle) } : stored;
  } catch (error) {
    throw new CheckpointError(
      `${folder.model} cannot be read (${(error as Error).message}): the run folder is damaged`,
      { cause: error },
    );
  }
}
