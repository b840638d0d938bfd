import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type RunEvent, train } from '../../src/index.ts';

/** What a task sequence came to. Accuracies in percent. */
export interface SequenceResult {
  /** Mean accuracy over the tasks at the end. */
  readonly accuracy: number;
  readonly forgetting: number;
  /** Accuracy on each task (columns) after each task (rows), shares between 0 and 1. */
  readonly matrix: readonly (readonly number[])[];
  readonly steps: number;
  /** From the first line of the config to the summary: preparing, compiling and evaluating included. */
  readonly seconds: number;
  readonly summary: Readonly<Record<string, unknown>>;
}

/** Sections of a config. */
export interface SequenceConfig {
  readonly [section: string]: unknown;
}

/**
 * Runs a task sequence in a folder of its own that is deleted afterwards.
 * @param look is given the run's folder before that
 * @throws Error if the run does not finish
 */
export async function sequence(
  config: SequenceConfig,
  look?: (folder: string) => Promise<void>,
): Promise<SequenceResult> {
  let folder = '';
  const dir = mkdtempSync(join(tmpdir(), 'plexus-bench-'));
  const began = performance.now();
  try {
    for await (const event of train({ ...config, run: { dir } }) as AsyncIterable<RunEvent>) {
      if (event.type === 'started') folder = event.dir;
      if (event.type !== 'finished' || !event.summary) continue;
      await look?.(folder);
      const summary = event.summary as unknown as Readonly<Record<string, unknown>>;
      return {
        accuracy: 100 * (summary.average_accuracy as number),
        forgetting: 100 * (summary.forgetting as number),
        matrix: summary.accuracy_matrix as number[][],
        steps: summary.steps as number,
        seconds: (performance.now() - began) / 1000,
        summary,
      };
    }
    throw new Error('the run did not finish');
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
