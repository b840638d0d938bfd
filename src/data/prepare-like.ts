import type { PreparedData } from './dataset.ts';
import { DataError } from './errors.ts';
import type { PreparedImages } from './image-dataset.ts';
import { prepareData } from './prepare.ts';
import { prepareTableLike, type TableEncoding } from './prepare-table.ts';
import type { DataConfig } from './schema.ts';
import type { PreparedTable } from './table-dataset.ts';
import type { PreparedText } from './text-dataset.ts';
import type { TokenizerJSON } from './tokenizer.ts';
import { tokenizerFromJSON } from './tokenizer-file.ts';

/**
 * How a dataset's examples became numbers, without any of them: plain data, with which somebody else's data of the same kind
 * becomes numbers in the same way.
 */
export interface DataEncoding {
  readonly kind: string;
  readonly info: PreparedData['info'];
  readonly images?: { readonly mean: number; readonly std: number };
  readonly table?: TableEncoding;
  readonly tokenizer?: TokenizerJSON;
}

/** The encoding of prepared data. */
export function encodingOf(data: PreparedData): DataEncoding {
  const { kind, info } = data;
  switch (kind) {
    case 'images': {
      const { mean, std } = data as PreparedImages;
      return { kind, info, images: { mean, std } };
    }
    case 'table': {
      const { columns, label } = data as PreparedTable;
      return { kind, info, table: { columns, label } };
    }
    case 'text':
      return { kind, info, tokenizer: (data as PreparedText).tokenizer };
    default:
      return { kind, info };
  }
}

/**
 * Prepares data of one's own in the way that other data was prepared. What has no encoding is read as its section says.
 * @throws DataError naming what is missing or does not fit: columns, image sizes, classes, cells
 */
export async function prepareDataLike(config: DataConfig, like: DataEncoding): Promise<PreparedData> {
  if (like.table && config.name === 'csv') return prepareTableLike(config, like.table);
  const tokenizer = like.tokenizer ? tokenizerFromJSON(like.tokenizer) : null;
  const data = await prepareData(config, { tokenizer });
  if (data.kind !== like.kind) throw new DataError(`this is ${data.kind} data, and ${like.kind} data was expected`);
  if (like.images) {
    const [own, theirs] = [data.info.inputs[0]?.shape ?? [], like.info.inputs[0]?.shape ?? []];
    if (own.join() !== theirs.join())
      throw new DataError(`the images are ${own.join(' x ')}, and ${theirs.join(' x ')} was expected`);
    const [has, knows] = [data.info.classes ?? 0, like.info.classes ?? 0];
    if (has > knows) throw new DataError(`there are labels up to ${has - 1}, and up to ${knows - 1} was expected`);
    return { ...data, ...like.images, info: like.info };
  }
  return { ...data, info: like.info };
}
