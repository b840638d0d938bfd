import { readFileSync } from 'node:fs';
import { DataError, parseCsv } from '../../data/index.ts';
import { createRng } from '../../tensor/index.ts';

/** When clients can be reached, by simulated time in seconds. */
export interface AvailabilityTrace {
  /** When a client that can be reached at a time no longer can (infinity: never); null if it cannot be reached then. */
  until(client: number, time: number): number | null;
  /** The first time from `time` on at which a client can be reached. */
  next(client: number, time: number): number;
}

/** A stretch of time: from, and up to but not including. */
type Stretch = readonly [from: number, until: number];

/**
 * Clients that can be reached in some stretches of time, over and over.
 * @param stretchesOf of a client: in order, apart from each other, all of them within [0, period)
 * @param period seconds after which they come again
 */
function repeating(stretchesOf: (client: number) => readonly Stretch[], period: number): AvailabilityTrace {
  return {
    until: (client, time) => {
      const stretches = stretchesOf(client);
      const phase = time % period;
      const found = stretches.find(([from, until]) => phase >= from && phase < until);
      if (!found) return null;
      const [from, until] = found;
      if (from === 0 && until === period) return Number.POSITIVE_INFINITY;
      // One that ends with the period may go on in the next.
      const again = stretches[0] as Stretch;
      const more = until === period && again[0] === 0 ? again[1] : 0;
      return time - phase + until + more;
    },
    next: (client, time) => {
      const stretches = stretchesOf(client);
      const phase = time % period;
      const found = stretches.find(([, until]) => phase < until);
      const [first] = stretches as readonly [Stretch];
      return found ? Math.max(time, time - phase + found[0]) : time - phase + period + first[0];
    },
  };
}

const DAY = 86_400;

/** Every client can be reached in one stretch of each day, which begins at a time of its own. `share`: its part of the day. */
export function diurnalTrace(share: number, seed: number): AvailabilityTrace {
  const rng = createRng(seed).fork('client days');
  return repeating((client) => {
    const from = rng.fork(client).uniform() * DAY;
    const until = from + share * DAY;
    if (share >= 1) return [[0, DAY]];
    return until <= DAY
      ? [[from, until]]
      : [
          [0, until - DAY],
          [from, DAY],
        ];
  }, DAY);
}

const COLUMNS = ['client', 'from', 'until'] as const;

/**
 * Reads a trace: CSV with the columns `client` (any name), `from` and `until` (seconds), a row for each stretch in which a client can be
 * reached. It begins again where its last stretch ends. There may be more clients than the file has: number `i` does as the file's client
 * `i mod n` does, in the order in which they first appear.
 * @throws DataError with file and line
 */
export function readTrace(file: string): AvailabilityTrace {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new DataError(`${file} cannot be read: ${(error as Error).message}`, { cause: error });
  }
  const { header, rows, lines } = parseCsv(text, ',', file);
  const missing = COLUMNS.filter((name) => !header.includes(name));
  if (missing.length > 0)
    throw new DataError(
      `${file}:1: expected the columns ${COLUMNS.join(', ')}, found ${header.join(', ')}: there is no '${missing.join("', '")}'`,
    );
  const [whose, begins, ends] = COLUMNS.map((name) => header.indexOf(name)) as [number, number, number];
  const devices = new Map<string, Stretch[]>();
  let period = 0;
  for (const [i, row] of rows.entries()) {
    const seconds = (column: number) => {
      const cell = row[column] as string;
      const value = cell === '' ? Number.NaN : Number(cell);
      if (Number.isFinite(value) && value >= 0) return value;
      throw new DataError(
        `${file}:${lines[i]}: '${header[column]}' is ${JSON.stringify(cell)}, expected a number of seconds, 0 or more`,
      );
    };
    const [from, until] = [seconds(begins), seconds(ends)];
    if (until <= from)
      throw new DataError(`${file}:${lines[i]}: 'until' is ${until}, expected more than 'from', which is ${from}`);
    const name = row[whose] as string;
    const known = devices.get(name);
    if (known) known.push([from, until]);
    else devices.set(name, [[from, until]]);
    period = Math.max(period, until);
  }
  const all = [...devices.values()].map(merged);
  return repeating((client) => all[client % all.length] as readonly Stretch[], period);
}

/** Stretches in order; those that meet or overlap are one. */
function merged(stretches: readonly Stretch[]): readonly Stretch[] {
  const result: Stretch[] = [];
  for (const [from, until] of [...stretches].sort((a, b) => a[0] - b[0])) {
    const last = result.at(-1);
    if (last && from <= last[1]) result[result.length - 1] = [last[0], Math.max(last[1], until)];
    else result.push([from, until]);
  }
  return result;
}
