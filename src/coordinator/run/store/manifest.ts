import { createHash } from 'node:crypto';
import type { NatsConnection } from '@nats-io/transport-node';
import * as z from 'zod';
import { CheckpointError } from '../errors.ts';
import { ChunkStream } from './chunk-stream.ts';

/** Of manifests. */
const FORMAT = 1;

const manifestSchema = z.object({
  format: z.literal(FORMAT),
  /** Completed steps. */
  step: z.int().min(0),
  /** Where the content lies: another place for each attempt, so that two never mix. */
  attempt: z.string(),
  chunkBytes: z.int().min(1),
  files: z.array(
    z.object({
      /** `index.json` and shards of the checkpoint; `run/<name>` of the run's folder, gzip. */
      name: z.string(),
      bytes: z.int().min(0),
      sha256: z.string(),
    }),
  ),
});

/** What a stored checkpoint consists of, and where its content lies. */
export type Manifest = z.infer<typeof manifestSchema>;

/** Prefix of the names of files of the run's folder. */
export const RUN = 'run/';

/**
 * Reads a stored manifest.
 * @param where names it in errors
 * @throws CheckpointError if it is damaged or of another version
 */
export function parseManifest(found: Uint8Array, where: string): Manifest {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(found).toString('utf8'));
  } catch (error) {
    throw new CheckpointError(`${where} is not valid JSON (${(error as Error).message})`);
  }
  const parsed = manifestSchema.safeParse(value);
  if (!parsed.success) throw new CheckpointError(`${where} is damaged, or of another version of Plexus`);
  return parsed.data;
}

/** A manifest as it is stored. */
export function packManifest(manifest: Omit<Manifest, 'format'>): Uint8Array {
  return Buffer.from(JSON.stringify({ format: FORMAT, ...manifest }));
}

/** The stream of a job's checkpoints, made if it is not there. @throws CheckpointError if the server has no JetStream */
export function openStream(connection: NatsConnection, job: string, deadlineMs: number): Promise<ChunkStream> {
  const name = `plexus-${job}-checkpoints`;
  return ChunkStream.open(connection, { name, prefix: `plexus.${job}.checkpoints`, patience: { deadlineMs } });
}

/** As one token of a subject. */
export function tokenOf(text: string): string {
  return encodeURIComponent(text).replaceAll('.', '%2E').replaceAll('*', '%2A');
}

/** In hexadecimal digits. */
export function sha256(content: Uint8Array): string {
  return createHash('sha256').update(content).digest('hex');
}

/** A name from the store may not lead out of the folder. @throws CheckpointError */
export function safeName(name: string): string {
  if (name === '' || /[/\\]|^\.\.?$/.test(name))
    throw new CheckpointError(`a stored checkpoint names a file "${name}", which is no name of a file in a folder`);
  return name;
}
