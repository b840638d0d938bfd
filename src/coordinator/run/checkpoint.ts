import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { sha256OfFile } from '../../tensor/index.ts';
import type { ShardReport } from '../../worker/index.ts';
import { fsyncPath, writeFileAtomically } from './atomic.ts';
import { CheckpointError } from './errors.ts';

const FORMAT = 1;

/** Schema of `index.json`. */
export const checkpointIndexSchema = z.object({
  format: z.literal(FORMAT),
  /** Completed steps. The data cursor is a function of it: the next example is number `step * batch.global`. */
  step: z.int().min(0),
  seed: z.int(),
  batch: z.object({ global: z.int(), micro: z.int() }),
  /** Which engine made the bits, for the promise of exactness. */
  engine: z.string(),
  mesh: z.object({ data: z.int(), pipeline: z.int(), expert: z.int() }),
  /** Seconds of training so far, over interruptions. */
  wall_s: z.number(),
  recoveries: z.int().min(0),
  shards: z.array(z.object({ file: z.string(), sha256: z.string(), bytes: z.int(), tensors: z.array(z.string()) })),
});

/** `index.json` of a checkpoint. */
export type CheckpointIndex = z.infer<typeof checkpointIndexSchema>;

/** What the coordinator knows of a checkpoint when the shards have been written. */
export type CheckpointInfo = Omit<CheckpointIndex, 'format' | 'shards'>;

const nameOf = (step: number): string => `step-${step}`;
const stepOf = (name: string): number | null => {
  const match = /^step-(\d+)$/.exec(name);
  return match ? Number(match[1]) : null;
};

/** Folder of the checkpoint of a step. */
export function checkpointPath(folder: string, step: number): string {
  return join(folder, nameOf(step));
}

/**
 * Writes a checkpoint so that its name appears only when everything is on the disk: `write` puts the shards into a
 * temporary folder, then the index is added, all is synced, and the folder is renamed to `step-N`. An existing
 * checkpoint of the same step is replaced. If anything fails nothing is left behind. Returns its folder, and the bytes of
 * its shards.
 */
export async function saveCheckpoint(
  folder: string,
  info: CheckpointInfo,
  write: (temporary: string) => Promise<readonly ShardReport[]>,
): Promise<{ readonly path: string; readonly bytes: number }> {
  await mkdir(folder, { recursive: true });
  const temporary = join(folder, `.${nameOf(info.step)}.${process.pid}.tmp`);
  await rm(temporary, { recursive: true, force: true });
  await mkdir(temporary);
  try {
    const reports = await write(temporary);
    const shards = await Promise.all(
      reports.map(async ({ file, sha256, tensors }) => {
        const path = join(temporary, file);
        await fsyncPath(path);
        return { file, sha256, bytes: (await stat(path)).size, tensors: [...tensors] };
      }),
    );
    const index: CheckpointIndex = { format: FORMAT, ...info, shards };
    await writeFileAtomically(join(temporary, 'index.json'), `${JSON.stringify(index, null, 1)}\n`);
    const final = join(folder, nameOf(info.step));
    // A folder cannot be renamed onto another: an older checkpoint of this step steps aside first, whole.
    const old = join(folder, `.${nameOf(info.step)}.old.tmp`);
    await rename(final, old).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error;
    });
    await rename(temporary, final);
    await fsyncPath(folder);
    await rm(old, { recursive: true, force: true });
    return { path: final, bytes: shards.reduce((sum, shard) => sum + shard.bytes, 0) };
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
}

/** Steps of the checkpoints in a folder, newest first. Temporary folders of a crashed writer do not count. */
export async function listCheckpoints(folder: string): Promise<number[]> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  return names
    .map(stepOf)
    .filter((step) => step !== null)
    .sort((a, b) => b - a);
}

/** Of steps, newest first, those that are neither among the newest `last` nor multiples of `every` (0: of nothing). */
export function superfluous(steps: readonly number[], last: number, every: number): number[] {
  return steps.slice(last).filter((step) => every === 0 || step % every !== 0);
}

/**
 * Deletes all but the newest `last` checkpoints and those whose step is a multiple of `every` (0: of nothing), and what
 * crashed writers left.
 */
export async function pruneCheckpoints(folder: string, last: number, every = 0): Promise<void> {
  const old = superfluous(await listCheckpoints(folder), last, every).map(nameOf);
  const torn = (await readdir(folder)).filter((name) => /^\.step-\d+\..*\.tmp$/.test(name));
  for (const name of [...old, ...torn]) await rm(join(folder, name), { recursive: true, force: true });
}

/**
 * Reads a checkpoint's index and checks every shard: there, of the right length, with the right SHA-256.
 * @throws CheckpointError saying which file is wrong and how.
 */
export async function verifyCheckpoint(path: string): Promise<CheckpointIndex> {
  const indexPath = join(path, 'index.json');
  const text = await readFile(indexPath, 'utf8').catch((error: NodeJS.ErrnoException) => {
    const what =
      error.code === 'ENOENT' ? 'has no index.json, so it was not finished or is no checkpoint' : error.message;
    throw new CheckpointError(`checkpoint ${path}: ${what}`, { cause: error });
  });
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw new CheckpointError(
      `${indexPath} is not valid JSON (${(error as Error).message}): the file is truncated or damaged`,
    );
  }
  const result = checkpointIndexSchema.safeParse(parsed);
  if (!result.success) {
    const format = (parsed as { format?: unknown } | null)?.format;
    const other =
      format !== FORMAT ? `has format ${JSON.stringify(format)}, but this version reads format ${FORMAT}` : null;
    const first = result.error.issues[0];
    throw new CheckpointError(`${indexPath} ${other ?? `is damaged: '${first?.path.join('.')}': ${first?.message}`}`);
  }
  for (const shard of result.data.shards) {
    const file = join(path, shard.file);
    const size = await stat(file).then(
      (found) => found.size,
      () => null,
    );
    if (size === null) throw new CheckpointError(`checkpoint ${path}: the shard ${shard.file} is missing`);
    if (size !== shard.bytes)
      throw new CheckpointError(
        `checkpoint ${path}: the shard ${shard.file} has ${size} bytes, but should have ${shard.bytes}: it is ${size < shard.bytes ? 'truncated' : 'not the one that was written'}`,
      );
    const sha256 = await sha256OfFile(file);
    if (sha256 !== shard.sha256)
      throw new CheckpointError(
        `checkpoint ${path}: the content of ${shard.file} has changed since it was written (SHA-256 ${sha256.slice(0, 12)}…, expected ${shard.sha256.slice(0, 12)}…)`,
      );
  }
  return result.data;
}

/** A checkpoint that can be continued from. */
export interface UsableCheckpoint {
  readonly path: string;
  readonly index: CheckpointIndex;
  /** What was wrong with newer ones that had to be skipped. */
  readonly warnings: readonly string[];
}

/**
 * The newest checkpoint that is whole; torn ones are skipped with a warning. With `step`, that one or an error.
 * @throws CheckpointError if there is none.
 */
export async function newestCheckpoint(folder: string, step?: number): Promise<UsableCheckpoint> {
  const steps = await listCheckpoints(folder);
  if (step !== undefined) {
    if (!steps.includes(step))
      throw new CheckpointError(
        `there is no checkpoint of step ${step} in ${folder}; there are: ${steps.length > 0 ? steps.join(', ') : 'none'}`,
      );
    const path = join(folder, nameOf(step));
    return { path, index: await verifyCheckpoint(path), warnings: [] };
  }
  const warnings: string[] = [];
  for (const candidate of steps) {
    const path = join(folder, nameOf(candidate));
    try {
      return { path, index: await verifyCheckpoint(path), warnings };
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
      warnings.push(`skipped a damaged checkpoint: ${error.message}`);
    }
  }
  throw new CheckpointError(
    steps.length === 0
      ? `there is no checkpoint in ${folder}: the run ended before its first one (train.checkpoint_every)`
      : `no checkpoint in ${folder} is whole:\n${warnings.map((text) => `  ${text}`).join('\n')}`,
  );
}
