import { listCheckpoints, newestCheckpoint, pruneCheckpoints, saveCheckpoint } from '../checkpoint.ts';
import type { CheckpointStore } from './store.ts';

/** Checkpoints in a folder of this machine (or of a shared disk). */
export function folderStore(folder: string): CheckpointStore {
  return {
    async save(info, write) {
      const { path, bytes } = await saveCheckpoint(folder, info, write);
      return { step: info.step, path, bytes };
    },
    steps: () => listCheckpoints(folder),
    newest: (step) => newestCheckpoint(folder, step),
    prune: (rule) => pruneCheckpoints(folder, rule.last, rule.every),
  };
}
