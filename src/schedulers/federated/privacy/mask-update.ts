import { addMasks, type Mask } from './mask.ts';
import { type QuantiseOptions, quantise } from './quantise.ts';

/** What a client does to its update before it sends it: plain data, for a thread. */
export interface MaskJob {
  readonly update: Float32Array;
  readonly levels: QuantiseOptions;
  /** For the rounding to levels. */
  readonly roundingKey: Uint8Array;
  readonly masks: readonly Mask[];
}

/** An update as it leaves its client: weighted, as integers, under masks. */
export function maskUpdate({ update, levels, roundingKey, masks }: MaskJob): Uint32Array {
  const vector = quantise(update, levels, roundingKey);
  addMasks(vector, masks);
  return vector;
}
