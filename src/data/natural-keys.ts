import { Buffer } from 'node:buffer';
import { BpeTokenizer } from './bpe-tokenizer.ts';
import type { PreparedData, SplitName } from './dataset.ts';
import { DataError } from './errors.ts';
import { columnCells } from './prepare-table.ts';
import { documentsOf } from './prepare-text.ts';
import type { DataConfig } from './schema.ts';
import { view } from './shared-array.ts';
import { type PreparedText, windowCount } from './text-dataset.ts';
import { tokenizerFromJSON } from './tokenizer-file.ts';

/**
 * Whose each training example (or each of another part) is, by a key that the data itself has: any column of a CSV file, label and unused columns
 * included; `document` for text, the file that a window begins in, and for State of the Union speeches also `president`,
 * `party` and `year`. Read when it is asked for: nothing of it is part of the prepared data.
 * @throws DataError naming the keys that there are
 */
export async function naturalKeys(
  config: DataConfig,
  data: PreparedData,
  key: string,
  split: SplitName = 'train',
): Promise<string[]> {
  switch (config.name) {
    case 'csv':
      return columnCells(config, key, split);
    case 'moby-dick':
    case 'text':
    case 'sotu': {
      const documents = await documentsOf(config, split);
      const names = documents.map(({ keys }) => keys[key]);
      const [first] = documents;
      if (names.some((name) => name === undefined))
        throw new DataError(`${config.name} has no key '${key}'; it has ${Object.keys(first?.keys ?? {}).join(', ')}`);
      return windowKeys(data as PreparedText, split, documents, names as string[]);
    }
    case 'mnist':
    case 'fashion-mnist':
      throw new DataError(
        `${config.name} has no natural keys: nobody knows who drew what; use another partition, or csv or text data`,
      );
  }
}

/** The key of the document in which each window's first token begins. */
function windowKeys(
  data: PreparedText,
  split: SplitName,
  documents: readonly { readonly bytes: number }[],
  names: string[],
): string[] {
  const tokens = data.tokens[split];
  const stride = split === 'train' ? data.stride : data.context;
  const ids = tokens.dtype === 'uint16' ? view(tokens, 'uint16') : view(tokens, 'int32');
  const tokenizer = tokenizerFromJSON(data.tokenizer);
  const lengths = Float64Array.from({ length: tokenizer.vocabSize }, (_, id) =>
    tokenizer instanceof BpeTokenizer ? tokenizer.decodeBytes([id]).length : Buffer.byteLength(tokenizer.decode([id])),
  );
  const keys = new Array<string>(windowCount(ids.length, data.context, stride));
  let document = 0;
  let end = documents[0]?.bytes ?? 0;
  let at = 0;
  let token = 0;
  for (let window = 0; window < keys.length; window++) {
    for (; token < window * stride; token++) at += lengths[ids[token] as number] as number;
    while (at >= end && document < documents.length - 1) {
      document += 1;
      end += (documents[document] as { readonly bytes: number }).bytes;
    }
    keys[window] = names[document] as string;
  }
  return keys;
}
