import type { Tensor } from '@tensorflow/tfjs-core';
import { EngineError, placeName } from '../errors.ts';
import { eagerKernel, kernelGradient, runKernel } from './kernel.ts';

/** Attributes of an expert call. */
export interface ExpertCallAttrs {
  /** Path of the calling module. */
  readonly path: string;
  /** How many experts `counts` tells of. */
  readonly experts: number;
}

for (const kernel of ['PlexusExperts', 'PlexusExpertsGrad'])
  eagerKernel(kernel, (_inputs, attrs) => {
    const { path } = attrs as unknown as ExpertCallAttrs;
    throw new EngineError(
      `${placeName(path)}: experts run outside of the layer's executable, so a layer with experts cannot run eagerly; compile it with Engine.vjp, or run its phases`,
      { path },
    );
  });

kernelGradient('PlexusExperts', { inputs: ['counts'] }, ([dy], [counts], attrs) => ({
  rows: () => runKernel('PlexusExpertsGrad', { dy: dy as Tensor, counts: counts as Tensor }, attrs),
}));

/**
 * Sends rows `[n, d]`, sorted by expert, to the experts and returns their outputs in the same rows; `counts` is int32
 * `[experts]`, and rows past its sum come back as zeros. A traced layer is cut here: the experts are no part of its
 * graph. Differentiable by `rows`.
 */
export function expertCall(rows: Tensor, counts: Tensor, attrs: ExpertCallAttrs): Tensor {
  if (rows.rank !== 2 || counts.rank !== 1 || counts.shape[0] !== attrs.experts || counts.dtype !== 'int32')
    throw new EngineError(
      `${placeName(attrs.path)}: experts take rows [n, d] and int32 counts [${attrs.experts}], got rows [${rows.shape}] and ${counts.dtype} counts [${counts.shape}]`,
      { path: attrs.path },
    );
  return runKernel('PlexusExperts', { rows, counts }, { path: attrs.path, experts: attrs.experts });
}
