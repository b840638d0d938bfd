import { readFileSync } from 'node:fs';
import { extname } from 'node:path';
import { parse, YAMLParseError } from 'yaml';
import { PlanError } from './errors.ts';
import { type Action, type ActionKind, formatAction, type Schedule } from './schedule.ts';

/**
 * Reads a schedule from a file. One row for each pipeline rank, one cell for each action, in order:
 * `<stage><F|B|I|W><microbatch>`, where the microbatch is counted within a data rank's share. `2F0` is the forward of
 * stage 2 for microbatch 0, `2B0` its backward; or `2I0` and later `2W0`, the gradient of the inputs and that of the
 * parameters. Empty cells are idle slots and only keep columns aligned. Lines that begin with `#` are comments.
 *
 * - `.csv`: cells separated by commas.
 * - `.yaml`, `.yml`: a list of rows, each a list of cells or a text of cells separated by blanks.
 *
 * Which rank holds a stage follows from the row that its cells are in; a rank may hold any stages.
 * @throws PlanError naming the file, the row and the cell
 */
export function readSchedule(file: string): Schedule {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new PlanError(`the schedule table "${file}" cannot be read: ${(error as Error).message}`, { cause: error });
  }
  return parseSchedule(text, file, extname(file) === '.csv' ? 'csv' : 'yaml');
}

/** Parses the text of a schedule table (see `readSchedule`). `name` is used in errors. @throws PlanError */
export function parseSchedule(text: string, name: string, format: 'csv' | 'yaml'): Schedule {
  const rows = format === 'csv' ? csvRows(text) : yamlRows(text, name);
  if (rows.length === 0)
    throw new PlanError(`the schedule table "${name}" is empty: it needs one row for each pipeline rank`);
  const ranks = rows.map((cells, row) => cells.filter((cell) => cell !== '').map((cell) => parseCell(cell, name, row)));
  return checkSchedule({ name, ranks });
}

/** A schedule as the text of a `.csv` table. */
export function formatSchedule(schedule: Schedule): string {
  return `${schedule.ranks.map((actions) => actions.map(formatAction).join(',')).join('\n')}\n`;
}

function csvRows(text: string): string[][] {
  return text
    .split(/\r?\n/)
    .filter((line) => line.trim() !== '' && !line.trimStart().startsWith('#'))
    .map((line) => line.split(',').map((cell) => cell.trim()));
}

function yamlRows(text: string, name: string): string[][] {
  let value: unknown;
  try {
    value = parse(text);
  } catch (error) {
    if (!(error instanceof YAMLParseError)) throw error;
    throw new PlanError(`the schedule table "${name}" is not YAML: ${error.message}`, { cause: error });
  }
  if (!Array.isArray(value))
    throw new PlanError(`the schedule table "${name}" must be a list of rows, one for each pipeline rank`);
  return value.map((row: unknown, index) => {
    if (typeof row === 'string') return row.split(/\s+/);
    if (!Array.isArray(row))
      throw new PlanError(`the schedule table "${name}", row ${index + 1}: a row is a list of cells such as 0F0`);
    return row.map((cell: unknown) => (cell === null ? '' : String(cell).trim()));
  });
}

function parseCell(cell: string, name: string, row: number): Action {
  const found = /^(\d+)([FBIW])(\d+)$/.exec(cell);
  if (!found)
    throw new PlanError(
      `the schedule table "${name}", row ${row + 1}: "${cell}" is no cell; write stage, F, B, I or W, and microbatch, as in 2F0`,
    );
  return { stage: Number(found[1]), kind: found[2] as ActionKind, microbatch: Number(found[3]) };
}

/**
 * Checks that every stage is on one rank and runs every microbatch once: F, then B or else I and then W.
 * (Whether ranks fit together is for `verifyPrograms`.)
 */
function checkSchedule({ name, ranks }: Pick<Schedule, 'name' | 'ranks'>): Schedule {
  const all = ranks.flat();
  const stages = all.reduce((max, { stage }) => Math.max(max, stage + 1), 0);
  const microbatches = all.reduce((max, { microbatch }) => Math.max(max, microbatch + 1), 0);
  const stageRanks = new Array<number>(stages).fill(-1);
  const seen = new Map<string, Set<ActionKind>>();
  const fail = (row: number, action: Action, why: string): never => {
    throw new PlanError(`the schedule table "${name}", row ${row + 1}, cell ${formatAction(action)}: ${why}`);
  };
  ranks.forEach((actions, row) => {
    for (const action of actions) {
      const { stage, kind, microbatch } = action;
      const owner = stageRanks[stage] as number;
      if (owner >= 0 && owner !== row)
        fail(row, action, `stage ${stage} is already in row ${owner + 1}; all of a stage is on one rank`);
      stageRanks[stage] = row;
      const key = `${stage} ${microbatch}`;
      const done = seen.get(key) ?? new Set<ActionKind>();
      seen.set(key, done);
      if (done.has(kind)) fail(row, action, 'is there twice');
      if (kind !== 'F' && !done.has('F')) fail(row, action, `comes before its forward ${stage}F${microbatch}`);
      if (kind === 'W' && !done.has('I')) fail(row, action, `comes before ${stage}I${microbatch}`);
      if ((kind === 'B' && done.has('I')) || (kind === 'I' && done.has('B')))
        fail(row, action, 'B already contains I and W');
      done.add(kind);
    }
  });
  for (let stage = 0; stage < stages; stage++)
    for (let microbatch = 0; microbatch < microbatches; microbatch++) {
      const done = seen.get(`${stage} ${microbatch}`);
      const missing = !done?.has('F') ? 'F' : done.has('B') || done.has('W') ? null : done.has('I') ? 'W' : 'B';
      if (missing) throw new PlanError(`the schedule table "${name}" lacks the cell ${stage}${missing}${microbatch}`);
    }
  const idle = ranks.findIndex((actions) => actions.length === 0);
  if (idle >= 0) throw new PlanError(`the schedule table "${name}", row ${idle + 1}: the rank holds no stage`);
  return { name, microbatches, stageRanks, ranks };
}
