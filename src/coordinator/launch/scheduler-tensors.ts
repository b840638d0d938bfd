import { join } from 'node:path';
import { type HostTensor, writeSafetensors } from '../../tensor/index.ts';
import { CheckpointReader, type UsableCheckpoint } from '../run/index.ts';
import type { WorkersSnapshot } from './workers.ts';

/** Name in checkpoints of a tensor that a scheduler keeps. */
function schedulerTensor(name: string): string {
  return `scheduler/${name}`;
}

/** A snapshot that also writes what the scheduler keeps, in a shard of its own. */
export function withSchedulerTensors(
  snapshot: WorkersSnapshot,
  kept: Readonly<Record<string, HostTensor>>,
): WorkersSnapshot {
  const tensors = Object.fromEntries(Object.entries(kept).map(([name, tensor]) => [schedulerTensor(name), tensor]));
  const names = Object.keys(tensors);
  if (names.length === 0) return snapshot;
  return {
    step: snapshot.step,
    differing: snapshot.differing,
    async write(dir) {
      const shards = await snapshot.write(dir);
      const file = 'scheduler.safetensors';
      const { sha256 } = await writeSafetensors(join(dir, file), tensors);
      return [...shards, { file, sha256, tensors: names }];
    },
    release: () => snapshot.release(),
  };
}

/** A tensor that a scheduler kept in a checkpoint; null if it kept none of that name. */
export async function readSchedulerTensor(from: UsableCheckpoint, name: string): Promise<HostTensor | null> {
  const reader = await CheckpointReader.open(from.path, from.index);
  try {
    return reader.names().includes(schedulerTensor(name)) ? await reader.read(schedulerTensor(name)) : null;
  } finally {
    await reader.close();
  }
}
