import { join } from 'node:path';
import { type HostTensor, writeSafetensors } from '../../tensor/index.ts';
import type { WorkersSnapshot } from './workers.ts';

/** Name in checkpoints of a tensor that a scheduler keeps. */
export function schedulerTensor(name: string): string {
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
    async write(dir) {
      const shards = await snapshot.write(dir);
      const file = 'scheduler.safetensors';
      const { sha256 } = await writeSafetensors(join(dir, file), tensors);
      return [...shards, { file, sha256, tensors: names }];
    },
    release: () => snapshot.release(),
  };
}
