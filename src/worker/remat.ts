import { joinPath } from '../tensor/index.ts';
import type { WorkerJob } from './protocol.ts';

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
    .map(([pattern, mode]) => ({ parts: pattern.split('.'), mode }))
    .sort((a, b) => b.parts.length - a.parts.length);
  return (relative) => {
    const parts = joinPath(layer, relative).split('.');
    const rule = rules.find(
      ({ parts: pattern }) =>
        pattern.length <= parts.length && pattern.every((part, i) => part === '*' || part === parts[i]),
    );
    return rule?.mode ?? 'none';
  };
}
