import { existsSync } from 'node:fs';
import { mkdir, readFile, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { CheckpointError, RunFolderError } from './errors.ts';

/** The files of a run. */
export interface RunFolder {
  readonly id: string;
  readonly path: string;
  /** The fully resolved config. */
  readonly config: string;
  readonly metrics: string;
  readonly checkpoints: string;
  readonly trace: string;
  /** What each rank did last, of a run that ended in a hang or timeout. */
  readonly flight: string;
  readonly summary: string;
  /** The model as the run was started with it. */
  readonly model: string;
}

/** Names the files of a run folder, which need not exist. */
export function runFolderAt(path: string): RunFolder {
  const root = resolve(path);
  return {
    id: basename(root),
    path: root,
    config: join(root, 'config.yaml'),
    metrics: join(root, 'metrics.jsonl'),
    checkpoints: join(root, 'checkpoints'),
    trace: join(root, 'trace.json'),
    flight: join(root, 'flight-recorder.json'),
    summary: join(root, 'summary.json'),
    model: join(root, 'model.json'),
  };
}

/**
 * Makes the folder of a new run. Without an id, one is made from name and time; a number is added if it is taken.
 * @throws RunFolderError if a given id is taken, or the folder cannot be made
 */
export async function createRunFolder(
  dir: string,
  name: string,
  id: string | null,
  now = new Date(),
): Promise<RunFolder> {
  const base = resolve(dir);
  await makeFolders(base).catch((error: Error) => {
    throw new RunFolderError('dir', `the folder ${base} cannot be made: ${error.message}`, error);
  });
  const stamp = now.toISOString().replace(/[-:]/g, '').replace('T', '-').slice(0, 15);
  const slug = name.replace(/[^\w.-]+/g, '-') || 'run';
  for (let attempt = 1; ; attempt++) {
    const candidate = id ?? (attempt === 1 ? `${slug}-${stamp}` : `${slug}-${stamp}-${attempt}`);
    try {
      await mkdir(join(base, candidate));
      return runFolderAt(join(base, candidate));
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      if (code !== 'EEXIST')
        throw new RunFolderError('dir', `a run folder cannot be made in ${base}: ${message}`, error);
      if (id !== null)
        throw new RunFolderError(
          'id',
          `the run folder ${join(base, id)} exists already: choose another run.id, delete it, or continue it with --resume`,
          error,
        );
    }
  }
}

/**
 * Makes a folder and those above it. Node's own `recursive` never returns where a folder cannot be made although the one
 * above it is there, as under /proc.
 */
async function makeFolders(path: string): Promise<void> {
  try {
    await mkdir(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return;
    if (code !== 'ENOENT' || existsSync(dirname(path))) throw error;
    await makeFolders(dirname(path));
    await makeFolders(path);
  }
}

/**
 * Finds an existing run: a path, or the id of a run in `dir`.
 * @throws CheckpointError if there is no such folder or it has no config.yaml.
 */
export async function findRunFolder(run: string, dir = 'runs'): Promise<RunFolder> {
  for (const path of [run, join(dir, run)]) {
    const found = await stat(path).catch(() => null);
    if (!found?.isDirectory()) continue;
    const folder = runFolderAt(path);
    await readFile(folder.config).catch((error: NodeJS.ErrnoException) => {
      throw new CheckpointError(`${path} is not a run folder: it has no readable config.yaml (${error.code})`);
    });
    return folder;
  }
  throw new CheckpointError(`there is no run folder '${run}', nor '${join(dir, run)}'`);
}
