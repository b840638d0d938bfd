import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ModuleDrift } from './drift.ts';
import type { AccuracyMatrix } from './metrics.ts';

/** Side of a cell of the picture, in pixels. */
const CELL = 56;

/** Writes `accuracy.json` and the heat map `accuracy.svg` into a run folder. */
export async function saveMatrix(
  folder: string,
  matrix: AccuracyMatrix,
  others: Readonly<Record<string, unknown>>,
): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'accuracy.json'), `${JSON.stringify({ matrix, ...others }, null, 2)}\n`);
  await writeFile(join(folder, 'accuracy.svg'), matrixPicture(matrix));
}

/** What `drift.json` in a run folder has. */
export interface DriftFile {
  /** Tasks that have been learnt. */
  readonly tasks: number;
  /** The one that changes most between tasks first. */
  readonly modules: readonly ModuleDrift[];
}

/** Writes `drift.json` into a run folder. */
export async function saveDrift(folder: string, drift: DriftFile): Promise<void> {
  await writeFile(join(folder, 'drift.json'), `${JSON.stringify(drift, null, 2)}\n`);
}

/** An accuracy matrix as an SVG: a row for each task learnt, a column for each task; the darker, the better. */
export function matrixPicture(matrix: AccuracyMatrix): string {
  const tasks = matrix[0]?.length ?? 0;
  const [left, top] = [110, 70];
  const width = Math.max(left + tasks * CELL + 20, 360);
  const height = top + tasks * CELL + 20;
  const cells = matrix.flatMap((row, learnt) =>
    row.map((value, task) => {
      const [x, y] = [left + task * CELL, top + learnt * CELL];
      const shade = 96 - Math.round(value * 56);
      const faint = task > learnt ? ' opacity="0.45"' : '';
      return (
        `<rect x="${x}" y="${y}" width="${CELL - 2}" height="${CELL - 2}" rx="4" fill="hsl(212 70% ${shade}%)"${faint}/>` +
        `<text x="${x + CELL / 2 - 1}" y="${y + CELL / 2 + 4}" text-anchor="middle" fill="${shade < 65 ? 'white' : '#1b2733'}"${faint}>${(value * 100).toFixed(1)}</text>`
      );
    }),
  );
  const columns = Array.from(
    { length: tasks },
    (_, task) =>
      `<text x="${left + task * CELL + CELL / 2 - 1}" y="${top - 10}" text-anchor="middle">${task + 1}</text>`,
  );
  const rows = matrix.map(
    (_, learnt) =>
      `<text x="${left - 12}" y="${top + learnt * CELL + CELL / 2 + 4}" text-anchor="end">${learnt + 1}</text>`,
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="13">
<rect width="100%" height="100%" fill="white"/>
<text x="16" y="26" font-size="15" font-weight="600">Accuracy on each task, in percent</text>
<text x="${left}" y="44" fill="#5b6b7b">task looked at</text>
<text x="16" y="${top + CELL / 2 + 4}" fill="#5b6b7b">tasks learnt</text>
${[...columns, ...rows, ...cells].join('\n')}
</svg>
`;
}
