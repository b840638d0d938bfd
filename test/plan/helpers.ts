import type { LayerSummary, ModelSummary, ParallelOptions, Plan } from '../../src/plan/index.ts';
import { compilePlan, parallelSchema } from '../../src/plan/index.ts';

/** What a made-up layer is like. */
export interface LayerOptions {
  readonly flops?: number;
  readonly experts?: number;
  /** Number of expert calls, if there are experts. */
  readonly calls?: number;
}

/** A layer of a made-up model. */
export function layer(
  name: string,
  { flops = 1e6, experts = 0, calls = experts > 0 ? 1 : 0 }: LayerOptions = {},
): LayerSummary {
  return {
    name,
    params: [{ path: `${name}.weight`, shape: [4, 4], bytes: 64, optimizerBytes: 128 }],
    expertCalls: Array.from({ length: calls }, (_, c) => ({
      path: `${name}.moe${c}`,
      experts: Array.from({ length: experts }, (_, e) => [
        { path: `${name}.moe${c}.experts.${e}.up`, shape: [4, 8], bytes: 128, optimizerBytes: 256 },
      ]),
      rows: 16,
      width: 4,
      flopsPerRow: 64,
      residualBytesPerRow: 48,
    })),
    forwardFlops: flops,
    backwardFlops: 2 * flops,
    backwardWeightFlops: flops,
    outputs: [{ dtype: 'float32', shape: [8, 4] }],
    residualBytes: 1000,
    stateBytes: 0,
  };
}

/** A made-up model of equal layers `blocks.0`, `blocks.1`, ... */
export function model(layers: number, options?: LayerOptions): ModelSummary {
  return { layers: Array.from({ length: layers }, (_, i) => layer(`blocks.${i}`, options)) };
}

/** A plan for `microbatches` global microbatches of 2 examples. */
export function plan(summary: ModelSummary, parallel: Partial<ParallelOptions>, microbatches: number): Plan {
  return compilePlan({
    summary,
    parallel: parallelSchema.parse(parallel),
    batch: { global: microbatches * 2, micro: 2 },
  });
}
