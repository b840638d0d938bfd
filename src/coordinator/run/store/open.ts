import type { NatsConnection } from '@nats-io/transport-node';
import { type ConnectNatsOptions, connectNats } from '../../../comm/index.ts';
import type { ResolvedConfig } from '../../config/index.ts';
import { CheckpointError } from '../errors.ts';
import { findRunFolder, type RunFolder } from '../folder.ts';
import { folderStore } from './folder.ts';
import { natsStore } from './nats.ts';
import { fetchRun } from './nats-runs.ts';
import type { CheckpointStore } from './store.ts';

/** A connection to NATS, and the job that runs there. */
export interface NatsPlace {
  readonly connection: NatsConnection;
  readonly job: string;
}

/** Job of runs that are driven from one process, where no other is named. */
const DEFAULT_JOB = 'default';

/**
 * Opens the store that a run's config asks for (`run.store`). `place` is the connection that the run has anyway; without
 * one, `nats` connects to `comm.nats.url`. `close` closes what was opened here.
 * @throws ConfigError if there is no server to connect to; NatsConnectError or CheckpointError if it cannot be used
 */
export async function openStore(
  config: ResolvedConfig,
  folder: RunFolder,
  place: NatsPlace | null,
): Promise<{ readonly store: CheckpointStore; close(): Promise<void> }> {
  if (config.run.store === 'folder') return { store: folderStore(folder.checkpoints), close: () => Promise.resolve() };
  const { url } = config.comm.nats;
  if (!place && url === null)
    throw config.origin.fail([
      { path: ['run', 'store'], message: 'nats needs a NATS server: set comm.nats.url, or run.store to folder' },
    ]);
  const connection = place?.connection ?? (await connectNats({ name: 'plexus checkpoints', servers: url as string }));
  const close = place ? () => Promise.resolve() : () => connection.close();
  try {
    const job = place?.job ?? DEFAULT_JOB;
    const store = await natsStore({ connection, job, run: folder.id, folder: folder.path });
    return { store, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/**
 * The folder of a run on this machine: the one that is here, or else one that is made from what the run has stored on
 * NATS (`run.store: nats`), beside other runs in `dir`.
 * @throws CheckpointError if it is in neither place
 */
export async function findOrFetchRun(
  run: string,
  options: { readonly nats: ConnectNatsOptions; readonly job?: string; readonly step?: number; readonly dir?: string },
): Promise<{ readonly path: string; readonly warnings: readonly string[] }> {
  const { nats, job = DEFAULT_JOB, step, dir = 'runs' } = options;
  const here = await findRunFolder(run, dir).catch((error: unknown) => {
    if (error instanceof CheckpointError) return null;
    throw error;
  });
  if (here) return { path: here.path, warnings: [] };
  const connection = await connectNats({ name: 'plexus checkpoints', ...nats });
  try {
    return await fetchRun({ connection, job, run, dir, ...(step === undefined ? {} : { step }) });
  } finally {
    await connection.close();
  }
}
