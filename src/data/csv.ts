import { DataError } from './errors.ts';

/** A parsed table: the names of its columns, and rows of as many cells. */
export interface CsvTable {
  readonly header: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** Line of the file (from 1) on which each row begins. */
  readonly lines: readonly number[];
}

/**
 * Parses CSV (RFC 4180: quoted cells may hold delimiters, line breaks and doubled quotes; CRLF or LF). Cells that are not
 * quoted are trimmed; blank lines are skipped.
 * @throws DataError with file, line and column on unterminated or stray quotes, ragged rows, empty or doubled column
 *   names, or no rows.
 */
export function parseCsv(text: string, delimiter: string, file: string): CsvTable {
  const rows: string[][] = [];
  const lines: number[] = [];
  for (const { cells, line } of records(text.replace(/^\uFEFF/, ''), delimiter, file)) {
    if (cells.length === 1 && cells[0] === '') continue;
    const header = rows[0];
    if (header && cells.length !== header.length)
      throw new DataError(
        `${file}:${line}: expected ${header.length} cells, as in the header, found ${cells.length}; quote cells that contain ${JSON.stringify(delimiter)}`,
      );
    rows.push(cells);
    lines.push(line);
  }
  const [header, ...body] = rows;
  if (!header) throw new DataError(`${file}: expected a header line with column names, but the file is empty`);
  for (const [i, name] of header.entries()) {
    if (name === '') throw new DataError(`${file}:${lines[0]}: column ${i + 1} of the header has no name`);
    if (header.indexOf(name) !== i)
      throw new DataError(
        `${file}:${lines[0]}: columns ${header.indexOf(name) + 1} and ${i + 1} are both called '${name}'`,
      );
  }
  if (body.length === 0) throw new DataError(`${file}: there is a header but no rows`);
  return { header, rows: body, lines: lines.slice(1) };
}

function* records(text: string, delimiter: string, file: string): Generator<{ cells: string[]; line: number }> {
  let at = 0;
  let line = 1;
  while (at < text.length) {
    const cells: string[] = [];
    const startLine = line;
    for (;;) {
      let cell: string;
      if (text[at] === '"') {
        const openLine = line;
        cell = '';
        for (at += 1; ; ) {
          const quote = text.indexOf('"', at);
          if (quote < 0)
            throw new DataError(`${file}:${openLine}: the quote that opens cell ${cells.length + 1} is never closed`);
          const part = text.slice(at, quote);
          cell += part;
          line += part.split('\n').length - 1;
          at = quote + 1;
          if (text[at] !== '"') break;
          cell += '"';
          at += 1;
        }
        if (at < text.length && text[at] !== delimiter && text[at] !== '\n' && text[at] !== '\r')
          throw new DataError(
            `${file}:${line}: after the closing quote of cell ${cells.length + 1} expected ${JSON.stringify(delimiter)} or the end of the line, found ${JSON.stringify(text[at])}; double quotes inside a quoted cell`,
          );
      } else {
        const start = at;
        while (at < text.length && text[at] !== delimiter && text[at] !== '\n') at++;
        cell = text.slice(start, at).trim();
      }
      cells.push(cell);
      if (text[at] !== delimiter) break;
      at += 1;
    }
    if (text[at] === '\r') at += 1;
    if (text[at] === '\n') at += 1;
    line += 1;
    yield { cells, line: startLine };
  }
}
