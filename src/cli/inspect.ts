import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { findRunFolder } from '../coordinator/index.ts';
import type { DriftFile } from '../schedulers/index.ts';
import { type ExitCode, exitCodes, UsageError } from './exit.ts';
import { formatTable } from './table.ts';
import type { Streams } from './terminal.ts';

/** Width of the longest bar, in characters. */
const BAR = 24;

/** `plexus inspect RUN --drift`: how much each module of a continual run changes between and within tasks. */
export async function inspect(
  run: string,
  options: { readonly drift?: boolean; readonly json?: boolean },
  streams: Streams,
): Promise<ExitCode> {
  if (!options.drift) throw new UsageError('say what to show: --drift');
  const { path } = await findRunFolder(run);
  const text = await readFile(join(path, 'drift.json'), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
    throw new UsageError(
      `${path} has no drift.json: it is written when the first task of a run with scheduler {name: continual, drift: true} ends`,
    );
  });
  const drift = JSON.parse(text) as DriftFile;
  streams.out.write(`${options.json ? JSON.stringify(drift) : formatDrift(drift)}\n`);
  return exitCodes.ok;
}

/** Modules, one a line, the one that changes most between tasks first; the longest bar stands for that one. */
export function formatDrift({ tasks, modules }: DriftFile): string {
  const most = Math.max(...modules.map(({ between }) => between));
  const header = ['module', 'numbers', 'between', 'within', 'relative %', 'share of the largest'];
  const rows = modules.map(({ module, parameters, between, within, relative }) => {
    const share = most > 0 ? between / most : 0;
    return [
      module,
      String(parameters),
      between.toFixed(5),
      within.toFixed(5),
      (100 * relative).toFixed(2),
      `${'█'.repeat(Math.round(share * BAR)).padEnd(BAR)} ${share.toFixed(3)}`,
    ];
  });
  return [
    `${tasks} ${tasks === 1 ? 'task' : 'tasks'}; mean absolute change of a number in the half of a task after the task has changed (between)`,
    'and in the half in which it stays (within); relative: changes between tasks as a share of the values before',
    '',
    ...formatTable(header, rows),
    ...(tasks < 2 ? ['', 'nothing changes between tasks until there is a second one'] : []),
  ].join('\n');
}
