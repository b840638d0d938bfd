import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { CheckpointError } from './errors.ts';

/** Locks that this process holds. */
const held = new Set<string>();

/**
 * Takes a run folder for this process, so that no two write the same metrics and checkpoints. A lock that a process left
 * which is gone (killed, say) does not count.
 * @returns what gives it back
 * @throws CheckpointError if another run of the folder is going on
 */
export async function lockRun(folder: string): Promise<() => Promise<void>> {
  const path = join(folder, '.lock');
  for (;;) {
    try {
      await writeFile(path, `${process.pid}\n`, { flag: 'wx' });
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const owner = await ownerOf(path);
    if (held.has(path) || (owner !== process.pid && isAlive(owner)))
      throw new CheckpointError(
        `the run ${folder} is going on in process ${owner}: wait until it ends, or stop it (if that is another program, delete ${path})`,
      );
    await rm(path, { force: true });
  }
  held.add(path);
  return async () => {
    held.delete(path);
    await rm(path, { force: true });
  };
}

/** The process that a lock names, or 0. A lock that is empty may be about to be written. */
async function ownerOf(path: string): Promise<number> {
  const read = async (): Promise<number> => Number(await readFile(path, 'utf8').catch(() => ''));
  const owner = await read();
  if (owner !== 0) return owner;
  await setTimeout(100);
  return read();
}

function isAlive(pid: number): boolean {
  if (!Number.isInteger(pid) || pid <= 0) return false;
  try {
    // Signal 0 only asks.
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
