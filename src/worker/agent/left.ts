import type { DeviceTensor } from '../../engine/index.ts';
import type { InitialSource } from '../weights.ts';

/** The tensors of a rank that has ended, in the thread that the next one begins in. Each is handed out once. */
export interface Left {
  /** A tensor as it is, if it has the bits of that snapshot. */
  same(blob: string | null, name: string, shape: readonly number[]): DeviceTensor | null;
  /** Memory of a tensor to write to. */
  readonly again: Pick<InitialSource, 'memory' | 'done'>;
}

/** @param snapshot the snapshot whose bits all of them have; null for none */
export function leftBy(tensors: ReadonlyMap<string, DeviceTensor>, snapshot: string | null): Left {
  const left = new Map(tensors);
  const take = (name: string, shape: readonly number[]): DeviceTensor | null => {
    const found = left.get(name);
    if (!found || String(found.shape) !== String(shape)) return null;
    left.delete(name);
    return found;
  };
  return {
    same: (blob, name, shape) => (blob !== null && blob === snapshot ? take(name, shape) : null),
    again: { memory: take, done: () => left.clear() },
  };
}

export const NOTHING: Left = leftBy(new Map(), null);
