import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import {
  CheckpointReader,
  newestCheckpoint,
  type RunEvent,
  type RunSummary,
  type StepEvent,
  train,
} from '../../../src/index.ts';
import { writeClasses } from './table.ts';

/** What a small run has come to. */
export interface SmallRun {
  readonly summary: RunSummary;
  /** Accuracy on each task at the end. */
  readonly last: readonly number[];
  /** What was told of its steps. */
  readonly steps: readonly StepEvent[];
  /** Its run folder. */
  readonly dir: string;
  /** Tensors of its last checkpoint by name. */
  tensor(name: string): Promise<Float32Array>;
}

/** Runs continual strategies on a small table of four classes; folders go when the test file is done. */
export function smallRuns(table: { readonly rows?: number; readonly classes?: number } = {}) {
  const root = mkdtempSync(join(tmpdir(), 'plexus-continual-'));
  afterAll(() => rmSync(root, { recursive: true, force: true }));
  const path = join(root, 'classes.csv');
  writeClasses(path, table);
  return async (scheduler: object, others: object = {}): Promise<SmallRun> => {
    const config = {
      model: { name: 'mlp', args: { hidden: [16, 16] } },
      data: { name: 'csv', path, label: 'label', validation: 0.2 },
      optim: { name: 'sgd', lr: 0.1, momentum: 0, clip_norm: null },
      batch: { global: 8, micro: 8 },
      run: { dir: root },
      scheduler: { name: 'continual', ...scheduler },
      ...others,
    };
    let [summary, dir] = [null as RunSummary | null, ''];
    const steps: StepEvent[] = [];
    for await (const event of train(config) as AsyncIterable<RunEvent>) {
      if (event.type === 'started') dir = event.dir;
      if (event.type === 'step') steps.push(event);
      if (event.type === 'finished') summary = event.summary;
    }
    if (!summary) throw new Error('the run did not finish');
    const matrix = summary.accuracy_matrix as number[][];
    return {
      summary,
      dir,
      last: matrix.at(-1) as number[],
      steps,
      async tensor(name) {
        const { path: folder, index } = await newestCheckpoint(join(dir, 'checkpoints'));
        const reader = await CheckpointReader.open(folder, index);
        try {
          return (await reader.read(name)).data as Float32Array;
        } finally {
          await reader.close();
        }
      },
    };
  };
}
