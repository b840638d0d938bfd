import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { digitsCsv } from '../data/digits-csv.ts';
import { replayed } from './federated-replay.ts';
import { World } from './federated-world.ts';
import { root } from './processes.ts';

let on: World;
beforeEach(async () => {
  on = await World.start();
});
afterEach(() => on.close());

/** Changes the cells of each line of a file. */
const recut = (csv: string, change: (cells: string[]) => string[]) =>
  csv.replaceAll(/^.+$/gm, (line) => change(line.split(',')).join());

it('five clients with a CSV file each: one lacks a column, says so and ends; the others train a model that none could see', async () => {
  const ROWS = 300;
  const files = await Promise.all(
    Array.from({ length: 5 }, (_, i) => digitsCsv('train', i * ROWS, (i + 1) * ROWS - 20 * i)),
  );
  const column = 24;
  // Columns of one are the other way round, and it has another one.
  files[1] = recut(files[1] as string, (cells) => ['remark', ...cells].reverse());
  files[4] = recut(files[4] as string, (cells) => cells.toSpliced(column, 1));
  const paths = files.map((text, i) => {
    writeFileSync(join(on.folder, `site-${i + 1}.csv`), text);
    return `site-${i + 1}.csv`;
  }) as [string, string, string, string, string];
  const server = on.train(join(root, 'configs/federated/digits-csv.yaml'), '--nats', on.url, '--min-clients', '4');
  for (const path of paths.slice(1, 4)) on.clientWith(path);
  const lacking = on.clientWith(paths[4]);
  expect(await on.processes.exitOf(lacking, 60_000)).toEqual({ code: 3, signal: null });
  expect(lacking.lines.join('\n')).toMatch(
    /site-5\.csv has no column 'r3c3'; expected r0c0, r0c1, .*, digit, found r0c0/,
  );
  // Only now are there enough.
  on.clientWith(paths[0]);
  const { code } = await on.processes.exitOf(server, 60_000);
  expect(code, on.processes.describe()).toBe(0);
  const warnings = on.events.flatMap(({ type, message }) => (type === 'warning' ? [message] : []));
  expect(warnings).toEqual([
    expect.stringMatching(/^client \S+-site-5 takes no part: its data have no column 'r3c3'$/),
  ]);
  const [run] = on.runs() as [string];
  const lines = on.lines(run);
  expect(lines.map(({ cohort, dropped_clients: dropped }) => ({ cohort, dropped }))).toEqual(
    Array(30).fill({ cohort: [0, 1, 2, 3], dropped: [] }),
  );
  expect(on.summary(run).accuracy).toBeGreaterThan(0.75);
  // The server has seen no row of theirs, and yet it is what a simulation computes that has them all.
  const own = paths.slice(0, 4).map((path) => join(on.folder, path));
  expect(on.weights(run)).toBe(await replayed(lines, run, own));
}, 120_000);
