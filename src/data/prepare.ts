import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Dataset, PreparedData } from './dataset.ts';
import { DataError } from './errors.ts';
import { openImages, type PreparedImages } from './image-dataset.ts';
import { prepareImages } from './prepare-images.ts';
import { prepareTable } from './prepare-table.ts';
import { prepareText } from './prepare-text.ts';
import type { DataConfig } from './schema.ts';
import { openStream, type PreparedStream } from './stream/index.ts';
import { openTable, type PreparedTable } from './table-dataset.ts';
import { openText, type PreparedText } from './text-dataset.ts';
import type { Tokenizer } from './tokenizer.ts';
import { loadTokenizer, saveTokenizer, tokenizerFromJSON } from './tokenizer-file.ts';

/** Name of the tokenizer's file in a run folder. */
export const TOKENIZER_FILE = 'tokenizer.json';

/** Options of `prepareData`. */
export interface PrepareOptions {
  /**
   * Run folder, which exists. The tokenizer is saved there as `tokenizer.json`; one that is there already (a resumed run)
   * is used instead of training another.
   */
  readonly runDir?: string;
  /** The tokenizer to use instead of training one or reading a saved one: the one of a run on another machine. */
  readonly tokenizer?: Tokenizer | null;
}

/**
 * Reads and prepares the dataset that a `data` section names: once, on the coordinator. The result can be posted to any
 * thread; `openDataset` opens it there.
 * @throws DataError naming the file or key, what was found and what to do.
 */
export async function prepareData(
  config: DataConfig,
  { runDir, tokenizer: given = null }: PrepareOptions = {},
): Promise<PreparedData> {
  switch (config.name) {
    case 'moby-dick':
    case 'text':
    case 'sotu': {
      const path = runDir === undefined ? null : join(runDir, TOKENIZER_FILE);
      const saved = given ?? (path !== null && existsSync(path) ? await loadTokenizer(path) : null);
      const { data, tokenizer } = await prepareText(config, saved);
      if (path !== null && saved === null) await saveTokenizer(tokenizer, path);
      return data;
    }
    case 'mnist':
    case 'fashion-mnist':
      return prepareImages(config);
    case 'csv':
      return prepareTable(config);
  }
}

/** Opens prepared data: cheap, shares the memory. @throws DataError on a kind that this version does not know. */
export function openDataset(prepared: PreparedData): Dataset {
  switch (prepared.kind) {
    case 'text':
      return openText(prepared as PreparedText);
    case 'images':
      return openImages(prepared as PreparedImages);
    case 'table':
      return openTable(prepared as PreparedTable);
    case 'stream':
      return openStream(prepared as PreparedStream, openDataset((prepared as PreparedStream).base));
    default:
      throw new DataError(
        `prepared data of kind '${prepared.kind}' is not known; known are text, images, table, stream`,
      );
  }
}

/** The tokenizer of prepared text, or null for other data. */
export function tokenizerOf(prepared: PreparedData): Tokenizer | null {
  return prepared.kind === 'text' ? tokenizerFromJSON((prepared as PreparedText).tokenizer) : null;
}
