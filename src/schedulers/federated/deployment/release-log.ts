import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import type { Releases } from '../privacy/index.ts';

/**
 * What a run has given away, in a file of the run's folder: a line for each time, written before it is given. A run that is killed and
 * goes on from an older checkpoint has given away what came after it all the same.
 * @param file need not be there yet
 */
export function releaseLog(file: string): Releases {
  const counts = new Map<number, number>();
  const count = (value: number) => counts.set(value, (counts.get(value) ?? 0) + 1);
  if (existsSync(file)) for (const line of readFileSync(file, 'utf8').split('\n')) if (line !== '') count(Number(line));
  return {
    counts: () => counts,
    add: (value) => {
      appendFileSync(file, `${value}\n`);
      count(value);
    },
  };
}
