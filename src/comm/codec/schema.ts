import * as z from 'zod';

/** Which codec each kind of edge uses. */
const sectionSchema = z
  .strictObject({
    gradients: z
      .enum(['none', 'f16', 'bf16', 'int8', 'topk'])
      .default('none')
      .describe(
        'codec of gradients between data ranks: f16, bf16 (half), int8 (a quarter, blocks of 256), topk (only the largest, the rest is kept for later)',
      ),
    topk_ratio: z
      .number()
      .gt(0)
      .max(1)
      .default(0.01)
      .describe('part of the elements of each gradient that topk sends; what it leaves out is added to the next step'),
    activations: z
      .enum(['none', 'f16', 'bf16', 'int8'])
      .default('none')
      .describe('codec of activations and their gradients between pipeline stages'),
  })
  .describe('codecs of tensors in transit: fewer bytes, for links that are slow; results then depend on the mesh');

/** The same with a codec's name alone for every kind of edge: `compression: int8`. */
export const compressionSchema = z
  .preprocess((value) => (typeof value === 'string' ? { gradients: value, activations: value } : value), sectionSchema)
  .prefault({});

/** A complete `comm.compression` section. */
export type CompressionOptions = z.output<typeof sectionSchema>;

/** Whether any edge is compressed. */
export function compresses({ gradients, activations }: CompressionOptions): boolean {
  return gradients !== 'none' || activations !== 'none';
}
