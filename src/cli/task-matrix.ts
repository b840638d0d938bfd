import { stripVTControlCharacters } from 'node:util';
import type { TaskCost } from '../coordinator/index.ts';
import { formatTable } from './table.ts';
import { formatBytes, formatCount, type painter } from './terminal.ts';

/** How a matrix of a task sequence is printed. */
export interface MatrixOptions {
  /** What its numbers are: the heading. */
  readonly title: string;
  /** A number of it, as text. */
  readonly cell: (value: number) => string;
  readonly paint: ReturnType<typeof painter>;
  /** Columns of the terminal: more tasks than fit go on below. */
  readonly columns: number;
}

/** Accuracies in percent, as short as they can be. */
export const percentCell = (share: number): string => (share >= 0.9995 ? '100' : (share * 100).toFixed(1));

const NAME = 'after task 10  ';

/**
 * A matrix of a task sequence: a line for each task learnt, a column for each task, and the mean over the tasks learnt. What is
 * said of tasks to come is dimmed.
 */
export function matrixLines(
  matrix: readonly (readonly number[])[],
  { title, cell, paint, columns }: MatrixOptions,
): string[] {
  const tasks = matrix[0]?.length ?? 0;
  const texts = matrix.map((row) => row.map(cell));
  const wide = Math.max(4, ...texts.flat().map(({ length }) => length)) + 1;
  const each = Math.max(4, Math.floor((columns - 2 - NAME.length - wide - 2) / wide));
  const lines = [`  ${title}`];
  for (let first = 0; first < tasks; first += each) {
    const end = Math.min(tasks, first + each);
    const shown = Array.from({ length: end - first }, (_, i) => first + i);
    if (first > 0) lines.push('');
    const mean = end === tasks ? `  ${'mean'.padStart(wide)}` : '';
    const heads = shown.map((task) => String(task + 1).padStart(wide)).join('');
    lines.push(paint('dim', `  ${'task looked at'.padEnd(NAME.length)}${heads}${mean}`));
    for (const [learnt, row] of texts.entries()) {
      const cells = shown.map((task) => {
        const text = (row[task] as string).padStart(wide);
        return task > learnt ? paint('dim', text) : text;
      });
      const known = (matrix[learnt] as readonly number[]).slice(0, learnt + 1);
      const average = cell(known.reduce((sum, value) => sum + value, 0) / known.length);
      const last = end === tasks ? `  ${paint('bold', average.padStart(wide))}` : '';
      lines.push(`  ${`after task ${learnt + 1}`.padEnd(NAME.length)}${cells.join('')}${last}`);
    }
  }
  return lines.map((line) => (stripVTControlCharacters(line).trim() === '' ? '' : line));
}

/** What is shown of what tasks cost; what no task has is left out. */
const COSTS: readonly (readonly [title: string, (cost: TaskCost) => number, (value: number) => string])[] = [
  ['steps', ({ steps }) => steps, String],
  ['observing', ({ observed_steps: steps }) => steps, String],
  ['examples', ({ examples }) => examples, formatCount],
  ['predicted', ({ predicted_examples: examples }) => examples, formatCount],
  ['GFLOPs', ({ training_flops: flops }) => flops / 1e9, (value) => value.toPrecision(4)],
  ['seconds', ({ wall_s: seconds }) => seconds, (value) => value.toFixed(1)],
  ['parameters', ({ memory }) => memory.parameters, formatBytes],
  ['slots', ({ memory }) => memory.slots, formatBytes],
  ['kept examples', ({ memory }) => memory.examples, formatBytes],
  ['other tensors', ({ memory }) => memory.tensors, formatBytes],
];

/** A line for each task: compute, and the memory that is needed to go on after it. */
export function costLines(tasks: readonly TaskCost[], paint: ReturnType<typeof painter>): string[] {
  const shown = COSTS.filter(([, of]) => tasks.some((task) => of(task) > 0));
  const rows = tasks.map((task, i) => [String(i + 1), ...shown.map(([, of, text]) => text(of(task)))]);
  const [head, ...lines] = formatTable(['task', ...shown.map(([title]) => title)], rows);
  return [`  ${paint('dim', head as string)}`, ...lines.map((line) => `  ${line}`)];
}
