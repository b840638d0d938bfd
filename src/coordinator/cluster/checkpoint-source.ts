import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { headerLength, parseHeader } from '../../tensor/index.ts';
import { CheckpointError, type CheckpointStore, type UsableCheckpoint } from '../run/index.ts';
import type { HeldSnapshot } from './choose-restore.ts';

/** A checkpoint of this process's disk as one blob: its shard files, one after another. */
export interface CheckpointSource {
  readonly path: string;
  readonly held: HeldSnapshot;
  readonly length: number;
  read(offset: number, length: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** The newest whole checkpoint of at most `limit` completed steps; null if there is none. */
export async function newestUpTo(store: CheckpointStore, limit: number): Promise<UsableCheckpoint | null> {
  for (const step of await store.steps()) {
    if (step > limit) continue;
    try {
      return await store.newest(step);
    } catch (error) {
      // A damaged one is passed over for the one before.
      if (!(error instanceof CheckpointError)) throw error;
    }
  }
  return null;
}

/** Opens a checkpoint for agents to fetch from. It has been verified. */
export async function openCheckpointSource(checkpoint: UsableCheckpoint): Promise<CheckpointSource> {
  const { path, index } = checkpoint;
  const files: { readonly handle: FileHandle; readonly start: number; readonly end: number }[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(files.map(({ handle }) => handle.close()));
  };
  const tensors: { name: string; shape: readonly number[]; offset: number }[] = [];
  let length = 0;
  try {
    for (const { file, bytes } of index.shards) {
      const handle = await open(join(path, file), 'r');
      files.push({ handle, start: length, end: length + bytes });
      const prefix = await readAt(handle, 0, 8);
      const json = await readAt(handle, 8, headerLength(prefix, bytes, file));
      const { entries, dataStart } = parseHeader(json, bytes - 8 - json.length, file);
      for (const [name, { shape, start }] of Object.entries(entries))
        tensors.push({ name, shape, offset: length + dataStart + start });
      length += bytes;
    }
  } catch (error) {
    await close();
    throw error;
  }
  const read = async (offset: number, count: number): Promise<Uint8Array> => {
    const parts: Uint8Array[] = [];
    for (const { handle, start, end } of files) {
      const [from, to] = [Math.max(offset, start), Math.min(offset + count, end)];
      if (from < to) parts.push(await readAt(handle, from - start, to - from));
    }
    return parts.length === 1 ? (parts[0] as Uint8Array) : Buffer.concat(parts);
  };
  const blob = `checkpoint-${index.step}`;
  const held: HeldSnapshot = { owner: 'coordinator', hostId: '', snapshot: { step: index.step, tensors, blob } };
  return { path, held, length, read, close };
}

async function readAt(handle: FileHandle, position: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length; ) {
    const { bytesRead } = await handle.read(bytes, done, length - done, position + done);
    if (bytesRead === 0) throw new Error(`a shard of a checkpoint ends at byte ${position + done}: did it shrink?`);
    done += bytesRead;
  }
  return bytes;
}
