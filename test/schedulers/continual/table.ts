import { writeFileSync } from 'node:fs';
import { createRng } from '../../../src/tensor/index.ts';

/** Writes a table of four numbers and a class: `classes` around middles of their own, with enough noise that it isn't easy. */
export function writeClasses(path: string, { rows = 240, classes = 4 } = {}): void {
  const rng = createRng(7);
  const line = (_: unknown, i: number): string => {
    const label = i % classes;
    const values = Array.from({ length: classes }, (_, at) => (at === label ? 1.5 : 0) + 0.7 * rng.normal());
    return [...values.map((value) => value.toFixed(4)), `c${label}`].join(',');
  };
  const columns = Array.from({ length: classes }, (_, i) => `x${i}`);
  writeFileSync(path, [[...columns, 'label'].join(','), ...Array.from({ length: rows }, line)].join('\n'));
}
