import type { BenchConfig } from './runs.ts';

/**
 * A transformer in which computing dominates: 4 blocks, d = 256, 32 examples of 128 characters in 8 microbatches. One
 * engine thread a worker, whatever the number of workers.
 */
export function transformer(parallel: Readonly<Record<string, unknown>>, args: object = {}): BenchConfig {
  return {
    seed: 1,
    model: { name: 'transformer-lm', args: { layers: 4, dim: 256, heads: 4, ...args } },
    data: { name: 'moby-dick', context: 128, tokenizer: { kind: 'char' }, validation: 0.005 },
    batch: { global: 32, micro: 4 },
    optim: { name: 'adamw', lr: 1e-3, clip_norm: 1 },
    engine: { threads: 1 },
    parallel,
  };
}
