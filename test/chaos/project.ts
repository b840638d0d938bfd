import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** What a test changes of the model and the run; the rest is the same everywhere. */
export interface ProjectOptions {
  readonly steps?: number;
  /** A mixture of experts instead of a dense model. */
  readonly moe?: boolean;
  readonly parallel?: Readonly<Record<string, unknown>>;
  readonly checkpointEvery?: number;
  readonly evalEvery?: number;
  readonly dim?: number;
  readonly layers?: number;
  /** Global microbatches of a step, of two rows each. */
  readonly microbatches?: number;
  /** Characters of context. */
  readonly context?: number;
  /** Further top-level sections, as YAML values in JSON. */
  readonly sections?: Readonly<Record<string, unknown>>;
}

/** The text that every run reads: numbers spelt out, the same every time. */
function corpus(): string {
  const words = ['the', 'whale', 'sea', 'ship', 'white', 'old', 'captain', 'sailed', 'and', 'sank'];
  return Array.from({ length: 3000 }, (_, i) => words[(i * i * 7 + i * 3) % words.length]).join(' ');
}

/** The config of a small language model with clipping and module state, as an object (JSON is YAML). */
export function chaosConfig(folder: string, options: ProjectOptions = {}): Record<string, unknown> {
  const { steps = 20, moe = false, dim = 16, layers = 2, microbatches = 8, context = 12 } = options;
  const experts = { experts: 4, top_k: 2, every: 1, hidden: 16, bias_rate: 0.01 };
  return {
    name: 'chaos',
    seed: 5,
    model: {
      name: 'transformer-lm',
      args: { layers, dim, heads: 2, dropout: 0.1, ...(moe ? { moe: experts } : {}) },
    },
    data: { name: 'text', path: join(folder, 'corpus.txt'), context, tokenizer: { kind: 'char' } },
    batch: { global: 2 * microbatches, micro: 2 },
    optim: { name: 'adamw', lr: 0.01, clip_norm: 1 },
    parallel: options.parallel ?? {},
    engine: { threads: 1 },
    train: {
      steps,
      ...(options.evalEvery ? { eval_every: options.evalEvery, eval_microbatches: 2 } : {}),
      checkpoint_every: options.checkpointEvery ?? 0,
    },
    ...options.sections,
  };
}

/** Writes the corpus and a config into a folder and returns the path of the config. */
export function writeProject(folder: string, name: string, config: Readonly<Record<string, unknown>>): string {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'corpus.txt'), corpus());
  const path = join(folder, `${name}.yaml`);
  writeFileSync(path, `${JSON.stringify(config, null, 2)}\n`);
  return path;
}
