import { joinPath } from '../tensor/index.ts';
import type { WorkerJob } from './protocol.ts';

/** Whether a key of `remat` is about the module at a path: `*` stands for any one part, and what is below counts too. */
export function coversPath(pattern: string, path: string): boolean {
  const [keys, parts] = [pattern.split('.'), path.split('.')];
  return keys.length <= parts.length && keys.every((key, i) => key === '*' || key === parts[i]);
}

/**
 * What to keep for the backward, by module path. Keys are absolute paths in which `*` stands for any one part; a key
 * also covers everything below it, and the longest that fits decides. What no key covers keeps its residuals.
 */
export function rematFor(
  remat: WorkerJob['remat'],
  layer: string,
): 'none' | 'full' | ((path: string) => 'none' | 'full') {
  if (typeof remat === 'string') return remat;
  const rules = Object.entries(remat)
    .map(([pattern, mode]) => ({ pattern, mode, length: pattern.split('.').length }))
    .sort((a, b) => b.length - a.length);
  return (relative) => {
    const path = joinPath(layer, relative);
    return rules.find(({ pattern }) => coversPath(pattern, path))?.mode ?? 'none';
  };
}
