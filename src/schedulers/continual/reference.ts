import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { AccuracyMatrix } from './metrics.ts';

/**
 * Accuracy on each task of a model that learns tasks together: as given, or the diagonal of another run's matrix (of strategy
 * `cumulative`, what it knew of each task when that had come; of `joint`, what it knew in the end).
 * @param given the numbers, or a run folder or its accuracy.json, from the working directory
 * @throws RangeError where it cannot be read, or has another number of tasks
 */
export async function readReference(
  given: readonly number[] | string | null,
  tasks: number,
): Promise<readonly number[] | null> {
  if (given === null) return null;
  const found = typeof given === 'string' ? await diagonal(given) : given;
  if (found.length !== tasks)
    throw new RangeError(
      `reference has ${found.length} accuracies, but there are ${tasks} tasks; give one for each, or the folder of a run of the same tasks`,
    );
  return found;
}

async function diagonal(path: string): Promise<readonly number[]> {
  const file = path.endsWith('.json') ? path : join(path, 'accuracy.json');
  try {
    const { matrix } = JSON.parse(await readFile(file, 'utf8')) as { readonly matrix: AccuracyMatrix };
    return matrix.map((row, task) => row[task] as number);
  } catch (error) {
    throw new RangeError(
      `reference: ${file} cannot be read (${(error as Error).message}); give the folder of a finished run of strategy joint or cumulative`,
    );
  }
}
