import { readFile } from 'node:fs/promises';
import { createRng, permutation } from '../tensor/index.ts';
import { type CsvTable, parseCsv } from './csv.ts';
import type { SplitName } from './dataset.ts';
import { DataError, MissingColumns } from './errors.ts';
import type { CsvConfig } from './schema.ts';
import { share } from './shared-array.ts';
import type { ColumnEncoding, LabelEncoding, PreparedTable } from './table-dataset.ts';

const MAX_CATEGORIES = 1000;
/** Whole-number labels with more different values than this are taken for quantities. */
const MAX_AUTO_CLASSES = 20;

/**
 * Reads a CSV file, assigns rows to splits by seed, and turns columns into float32 features: numbers shifted and scaled by
 * the training rows' mean and deviation, categories one-hot (in sorted order, over all rows).
 * @throws DataError with line and column for cells that cannot be used, and for columns that are not there.
 */
export async function prepareTable(config: CsvConfig): Promise<PreparedTable> {
  const table = parseCsv(await readFileOrFail(config.path), config.delimiter, config.path);
  const rows = splitRows(table.rows.length, config);
  const labelName = config.label ?? (table.header.at(-1) as string);
  const labelColumn = columnOf(table, labelName, 'data.label', config.path);
  const names = config.columns ?? table.header.filter((name) => name !== labelName);
  for (const name of config.categorical) columnOf(table, name, 'data.categorical', config.path);
  if (names.includes(labelName))
    throw new DataError(
      `data.columns lists '${labelName}', which is the label; predicting a column from itself is not learning`,
    );
  if (names.length === 0) throw new DataError(`${config.path}: there are no columns besides the label '${labelName}'`);

  const columns = names.map((name) =>
    encodingOf(table, columnOf(table, name, 'data.columns', config.path), rows.train, config),
  );
  const label = labelEncodingOf(table, labelColumn, config);
  return encoded(table, config, rows, { columns, label, labelColumn });
}

/** How a table's cells become numbers, as another table has settled it. */
export type TableEncoding = Pick<PreparedTable, 'columns' | 'label'>;

/**
 * Reads a CSV file whose cells are to become numbers exactly as those of another table did: the same columns, wherever they
 * are in this file, the same shifts, scales and categories. Columns that the other has not are left out.
 * @throws MissingColumns naming all of them; DataError naming line and column of a cell that the encoding does not know
 */
export async function prepareTableLike(config: CsvConfig, like: TableEncoding): Promise<PreparedTable> {
  const table = parseCsv(await readFileOrFail(config.path), config.delimiter, config.path);
  const wanted = [...like.columns.map(({ name }) => name), like.label.name];
  const missing = wanted.filter((name) => !table.header.includes(name));
  if (missing.length > 0)
    throw new MissingColumns(
      `${config.path} has no column${missing.length > 1 ? 's' : ''} ${missing.map((name) => `'${name}'`).join(', ')}; ` +
        `expected ${wanted.join(', ')}, found ${table.header.join(', ')}`,
      missing,
    );
  const columns = like.columns.map((column) => ({ ...column, index: table.header.indexOf(column.name) }));
  const labelColumn = table.header.indexOf(like.label.name);
  for (const column of columns)
    checkCells(
      table,
      config,
      column.index,
      column.kind === 'category' ? column.values : null,
      column.kind === 'number',
    );
  checkCells(table, config, labelColumn, like.label.kind === 'classes' ? like.label.values : null, false);
  return encoded(table, config, splitRows(table.rows.length, config), { columns, label: like.label, labelColumn });
}

/** Checks that each cell of a column is one of `values`, or a number. */
function checkCells(
  table: CsvTable,
  config: CsvConfig,
  index: number,
  values: readonly string[] | null,
  mayFill: boolean,
): void {
  const known = values && new Set(values);
  for (const [row, cells] of table.rows.entries()) {
    const cell = cells[index] as string;
    const place = `${config.path}:${table.lines[row]}: column '${table.header[index]}'`;
    if (known) {
      if (!known.has(cell))
        throw new DataError(
          `${place}: expected one of ${values.slice(0, 20).join(', ')}, found ${JSON.stringify(cell)}`,
        );
    } else if (cell === '') {
      if (!mayFill || config.missing === 'error')
        throw new DataError(`${place}: the cell is empty${mayFill ? '; fill it in' : ''}`);
    } else if (Number.isNaN(numberIn(cell)))
      throw new DataError(`${place}: expected a number, found ${JSON.stringify(cell)}`);
  }
}

function encoded(
  table: CsvTable,
  config: CsvConfig,
  rows: Record<SplitName, Int32Array>,
  {
    columns,
    label,
    labelColumn,
  }: { readonly columns: readonly ColumnEncoding[]; readonly label: LabelEncoding; readonly labelColumn: number },
): PreparedTable {
  const width = columns.reduce((sum, column) => sum + (column.kind === 'number' ? 1 : column.values.length), 0);
  const part = (indices: Int32Array) => ({
    features: share('float32', features(table, columns, indices, width)),
    labels: share(label.kind === 'classes' ? 'int32' : 'float32', labels(table, labelColumn, label, indices)),
  });
  return {
    kind: 'table',
    name: 'csv',
    source: config.path,
    info: {
      inputs: [{ dtype: 'float32', shape: [width] }],
      targets: label.kind === 'classes' ? [{ dtype: 'int32', shape: [] }] : [{ dtype: 'float32', shape: [1] }],
      ...(label.kind === 'classes' ? { classes: label.values.length } : {}),
    },
    columns,
    label,
    splits: { train: part(rows.train), validation: part(rows.validation), test: part(rows.test) },
  };
}

/** The cells of any column in the rows of a part, in their order. @throws DataError if there is no such column */
export async function columnCells(config: CsvConfig, column: string, split: SplitName): Promise<string[]> {
  const table = parseCsv(await readFileOrFail(config.path), config.delimiter, config.path);
  const index = columnOf(table, column, 'key', config.path);
  return Array.from(splitRows(table.rows.length, config)[split], (row) => table.rows[row]?.[index] as string);
}

async function readFileOrFail(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new DataError(`data.path: ${path} cannot be read: ${(error as Error).message}`, { cause: error });
  }
}

function splitRows(count: number, config: CsvConfig): Record<SplitName, Int32Array> {
  const order = permutation(count, createRng(config.split_seed).fork('csv split'));
  const validation = Math.round(count * config.validation);
  const test = Math.round(count * config.test);
  const train = count - validation - test;
  if (train < 1 || (config.validation > 0 && validation < 1) || (config.test > 0 && test < 1))
    throw new DataError(
      `${config.path}: ${count} rows split into ${train} to train on, ${validation} to validate on (data.validation ${config.validation}) and ${test} to test on (data.test ${config.test}); each part that is asked for needs at least one`,
    );
  return {
    train: order.slice(0, train),
    validation: order.slice(train, train + validation),
    test: order.slice(train + validation),
  };
}

function columnOf(table: CsvTable, name: string, key: string, file: string): number {
  const column = table.header.indexOf(name);
  if (column < 0) throw new DataError(`${key}: ${file} has no column '${name}'; it has ${table.header.join(', ')}`);
  return column;
}

/** The number in a cell, or NaN. Empty cells are NaN too, so that `Number('') === 0` does no harm. */
function numberIn(cell: string): number {
  const value = cell === '' ? Number.NaN : Number(cell);
  return Number.isFinite(value) ? value : Number.NaN;
}

function encodingOf(table: CsvTable, index: number, train: Int32Array, config: CsvConfig): ColumnEncoding {
  const name = table.header[index] as string;
  const cells = table.rows.map((row) => row[index] as string);
  const place = (row: number) => `${config.path}:${table.lines[row]}: column '${name}'`;
  const filled = cells.filter((cell) => cell !== '');
  const numeric = filled.filter((cell) => !Number.isNaN(numberIn(cell))).length;
  // A column that is mostly numbers is numeric; a stray word in it is a bad cell, not a category.
  if (config.categorical.includes(name) || numeric === 0 || numeric < filled.length / 2) {
    const values = [...new Set(cells)].sort((a, b) => (a < b ? -1 : 1));
    if (values.length > MAX_CATEGORIES)
      throw new DataError(
        `${config.path}: column '${name}' has ${values.length} different values, more than the ${MAX_CATEGORIES} that can be one-hot encoded; leave it out with data.columns`,
      );
    return { kind: 'category', name, index, values };
  }
  const bad = cells.findIndex((cell) => cell !== '' && Number.isNaN(numberIn(cell)));
  if (bad >= 0)
    throw new DataError(
      `${place(bad)}: expected a number, found ${JSON.stringify(cells[bad])}; correct it or list the column under data.categorical`,
    );
  const empty = cells.indexOf('');
  if (empty >= 0 && config.missing === 'error')
    throw new DataError(`${place(empty)}: the cell is empty; fill it in or set data.missing: fill`);
  const known = [...train].map((row) => numberIn(cells[row] as string)).filter((value) => !Number.isNaN(value));
  const mean = known.length === 0 ? 0 : known.reduce((a, b) => a + b, 0) / known.length;
  const variance = known.length === 0 ? 0 : known.reduce((a, b) => a + (b - mean) ** 2, 0) / known.length;
  const scale = config.normalise
    ? { shift: mean, scale: variance > 0 ? Math.sqrt(variance) : 1 }
    : { shift: 0, scale: 1 };
  return { kind: 'number', name, index, fill: mean, ...scale };
}

function labelEncodingOf(table: CsvTable, index: number, config: CsvConfig): LabelEncoding {
  const name = table.header[index] as string;
  const cells = table.rows.map((row) => row[index] as string);
  const empty = cells.indexOf('');
  if (empty >= 0)
    throw new DataError(
      `${config.path}:${table.lines[empty]}: column '${name}': the label is empty; remove the row or fill it in`,
    );
  const numbers = cells.map(numberIn);
  const bad = numbers.findIndex(Number.isNaN);
  const different = [...new Set(cells)];
  const task =
    config.task !== 'auto'
      ? config.task
      : bad >= 0 || (different.length <= MAX_AUTO_CLASSES && numbers.every(Number.isInteger))
        ? 'classification'
        : 'regression';
  if (task === 'regression') {
    if (bad >= 0)
      throw new DataError(
        `${config.path}:${table.lines[bad]}: column '${name}': expected a number as label, found ${JSON.stringify(cells[bad])}; set data.task: classification if labels are categories`,
      );
    return { kind: 'number', name };
  }
  if (different.length < 2)
    throw new DataError(
      `${config.path}: every label in column '${name}' is ${JSON.stringify(different[0])}; there is nothing to learn`,
    );
  const values = different.sort((a, b) => (bad >= 0 ? (a < b ? -1 : 1) : Number(a) - Number(b)));
  return { kind: 'classes', name, values };
}

function features(table: CsvTable, columns: readonly ColumnEncoding[], rows: Int32Array, width: number): Float32Array {
  const out = new Float32Array(rows.length * width);
  let offset = 0;
  for (const column of columns) {
    const categories = column.kind === 'category' ? new Map(column.values.map((value, i) => [value, i])) : null;
    for (const [i, row] of rows.entries()) {
      const cell = table.rows[row]?.[column.index] as string;
      if (column.kind === 'number') {
        const value = cell === '' ? column.fill : Number(cell);
        out[i * width + offset] = (value - column.shift) / column.scale;
      } else out[i * width + offset + (categories?.get(cell) as number)] = 1;
    }
    offset += column.kind === 'number' ? 1 : column.values.length;
  }
  return out;
}

function labels(table: CsvTable, column: number, encoding: LabelEncoding, rows: Int32Array): number[] {
  const ids = encoding.kind === 'classes' ? new Map(encoding.values.map((value, i) => [value, i])) : null;
  return [...rows].map((row) => {
    const cell = table.rows[row]?.[column] as string;
    return ids ? (ids.get(cell) as number) : Number(cell);
  });
}
