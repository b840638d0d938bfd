import { mkdir, readFile, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { CheckpointError } from './errors.ts';

/** The files of a run. */
export interface RunFolder {
  readonly id: string;
  readonly path: string;
  /** The fully resolved config. */
  readonly config: string;
  readonly metrics: string;
  readonly checkpoints: string;
  readonly trace: string;
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
    summary: join(root, 'summary.json'),
    model: join(root, 'model.json'),
  };
}

/**
 * Makes the folder of a new run. Without an id, one is made from name and time; a number is added if it is taken.
 * @throws Error if a given id is taken.
 */
export async function createRunFolder(
  dir: string,
  name: string,
  id: string | null,
  now = new Date(),
): Promise<RunFolder> {
  const base = resolve(dir);
  await mkdir(base, { recursive: true });
  const stamp = now.toISOString().replace(/[-:]/g, '').replace('T', '-').slice(0, 15);
  const slug = name.replace(/[^\w.-]+/g, '-') || 'run';
  for (let attempt = 1; ; attempt++) {
    const candidate = id ?? (attempt === 1 ? `${slug}-${stamp}` : `${slug}-${stamp}-${attempt}`);
    try {
      await mkdir(join(base, candidate));
      return runFolderAt(join(base, candidate));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      if (id !== null)
        throw new Error(
          `the run folder ${join(base, id)} exists already: choose another run.id, delete it, or continue it with --resume`,
        );
    }
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
