import type { Tensor } from '@tensorflow/tfjs-core';
import { EngineError } from '../engine/index.ts';

/**
 * A module that failed or was used wrongly. The message begins with the module's kind and its absolute path, which is
 * also in `path`. An EngineError, so that the engine passes it on as it is.
 */
export class ModuleError extends EngineError {
  override readonly name = 'ModuleError';
  /** The module's kind, e.g. `linear`. */
  readonly kind: string;
  /** The message without kind and path. */
  readonly complaint: string;

  constructor(kind: string, path: string, message: string, cause?: unknown) {
    super(`${kind} at "${path}": ${message}`, { path, cause });
    this.kind = kind;
    this.complaint = message;
  }
}

/** `float32 [8,16], int32 [8]`: what a list of tensors is, for messages. */
export function describeTensors(tensors: readonly Pick<Tensor, 'dtype' | 'shape'>[]): string {
  return tensors.length === 0 ? 'no inputs' : tensors.map((t) => `${t.dtype} [${t.shape}]`).join(', ');
}

/** The candidate with the smallest edit distance to `name`, or null if none is near enough to be a likely typo. */
export function nearest(name: string, candidates: readonly string[]): string | null {
  let best: string | null = null;
  let bestDistance = Math.max(2, Math.ceil(name.length / 2)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(name, candidate);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** `it has a, b (did you mean "a"?)`: the end of every "there is no such name" message. */
export function describeNames(name: string, candidates: readonly string[]): string {
  const guess = nearest(name, candidates);
  const list = candidates.length === 0 ? 'it has none' : `it has ${candidates.join(', ')}`;
  return guess === null ? list : `${list} (did you mean "${guess}"?)`;
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++)
      row[j] = Math.min(
        (previous[j] as number) + 1,
        (row[j - 1] as number) + 1,
        (previous[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1),
      );
    previous = row;
  }
  return previous[b.length] as number;
}
