import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/transport-node';
import { CheckpointError } from '../errors.ts';
import { openStream } from './manifest.ts';
import { type NatsStoreOptions, natsStore } from './nats.ts';

/** Ids of the runs of which there are checkpoints, with their steps, newest first. */
export async function storedRuns(
  connection: NatsConnection,
  job: string,
  deadlineMs = 10_000,
): Promise<ReadonlyMap<string, readonly number[]>> {
  const stream = await openStream(connection, job, deadlineMs);
  const runs = new Map<string, number[]>();
  for (const name of await stream.names('manifest.*.*')) {
    const [, token = '', step] = name.split('.');
    const run = decodeURIComponent(token);
    runs.set(run, [...(runs.get(run) ?? []), Number(step)]);
  }
  for (const steps of runs.values()) steps.sort((a, b) => b - a);
  return runs;
}

/**
 * Brings a run to this machine: makes `<dir>/<run>` with its files and its newest whole checkpoint, from which it can be
 * resumed. Returns the folder, and what was wrong with newer checkpoints.
 * @throws CheckpointError if there is no such run, or none of its checkpoints is whole
 */
export async function fetchRun(
  options: Omit<NatsStoreOptions, 'folder'> & { readonly dir: string; readonly step?: number },
): Promise<{ readonly path: string; readonly warnings: readonly string[] }> {
  const { connection, job, run, dir, step } = options;
  const known = await storedRuns(connection, job, options.deadlineMs);
  if (!known.has(run))
    throw new CheckpointError(
      `there is no run '${run}' of job '${job}' on ${connection.getServer()}; there are: ${[...known.keys()].join(', ') || 'none'}`,
    );
  const path = join(dir, run);
  await mkdir(path, { recursive: true });
  const store = await natsStore({ ...options, folder: path });
  const usable = await store.newest(step);
  await store.restoreFiles(usable.index.step);
  return { path, warnings: usable.warnings };
}
