import { readFile, writeFile } from 'node:fs/promises';
import * as z from 'zod';
import { BpeTokenizer } from './bpe-tokenizer.ts';
import { CharTokenizer } from './char-tokenizer.ts';
import { DataError } from './errors.ts';
import type { Tokenizer } from './tokenizer.ts';

const common = { format: z.literal('plexus-tokenizer'), version: z.literal(1) };
const id = z.int().min(0).max(65535);
const jsonSchema = z.discriminatedUnion('kind', [
  z.object({ ...common, kind: z.literal('char'), characters: z.array(z.string().min(1)).min(1) }),
  z.object({ ...common, kind: z.literal('bpe'), merges: z.array(z.tuple([id, id])) }),
]);

/** Restores a tokenizer from its saved form. @throws DataError if it is not one; `where` names it in the message. */
export function tokenizerFromJSON(json: unknown, where = 'tokenizer'): Tokenizer {
  const parsed = jsonSchema.safeParse(json);
  if (!parsed.success) throw new DataError(`${where}: not a saved tokenizer: ${z.prettifyError(parsed.error)}`);
  return parsed.data.kind === 'char' ? new CharTokenizer(parsed.data.characters) : new BpeTokenizer(parsed.data.merges);
}

/** Reads a tokenizer from a file, e.g. `tokenizer.json` of a run folder. @throws DataError naming the file. */
export async function loadTokenizer(path: string): Promise<Tokenizer> {
  let json: unknown;
  try {
    json = JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    throw new DataError(`${path}: cannot be read as a tokenizer: ${(error as Error).message}`, { cause: error });
  }
  return tokenizerFromJSON(json, path);
}

/** Writes a tokenizer to a file. */
export async function saveTokenizer(tokenizer: Tokenizer, path: string): Promise<void> {
  await writeFile(path, `${JSON.stringify(tokenizer)}\n`);
}
