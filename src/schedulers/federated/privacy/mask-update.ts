import { addMasks, type Mask } from './mask.ts';
import { type QuantiseOptions, quantise } from './quantise.ts';

/** What a client does to its update before it sends it: plain data, for a thread. */
export interface MaskJob {
  /** Its memory takes the result. */
  readonly update: Float32Array;
  readonly levels: QuantiseOptions;
  /** For the rounding to levels. */
  readonly roundingKey: Uint8Array;
  readonly masks: readonly Mask[];
}

/** An update as it leaves its client: weighted, as integers, under masks, in the memory that the update was in. */
export function maskUpdate({ update, levels, roundingKey, masks }: MaskJob): void {
  const vector = maskedIn(update);
  quantise(update, levels, roundingKey, vector);
  addMasks(vector, masks);
}

/** What is in an update's memory after it was masked. */
export function maskedIn(update: Float32Array): Uint32Array {
  return new Uint32Array(update.buffer, update.byteOffset, update.length);
}
