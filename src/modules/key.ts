import type { HostTensor } from '../tensor/index.ts';
import { createRng, int32 } from '../tensor/index.ts';

/**
 * The `key` input of a layer (or expert) function: int32 `[2]`, a pure function of what the numbers may depend on and of
 * nothing else. `layerPath` is the layer's name, or an expert's path.
 */
export function layerKey(seed: number, step: number, microbatch: number, layerPath: string): HostTensor {
  const rng = createRng(seed).fork('layer', layerPath, step, microbatch);
  return int32([rng.uint32() | 0, rng.uint32() | 0], [2]);
}

/** The key of evaluation and generation, where nothing is random. */
export function evaluationKey(): HostTensor {
  return int32([0, 0], [2]);
}

/**
 * The number that tells the uniform draws of one layer apart: FNV-1a of the module's path within the layer and the
 * number of the call, as an int32. It is relative to the layer, so that equal layers trace to equal graphs.
 */
export function streamOf(relativePath: string, call: number): number {
  let hash = 0x811c9dc5;
  for (const char of `${relativePath}#${call}`) hash = Math.imul(hash ^ (char.codePointAt(0) as number), 0x01000193);
  return hash | 0;
}
