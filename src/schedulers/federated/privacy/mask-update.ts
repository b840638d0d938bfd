import { addIntegers } from '../../../comm/index.ts';
import { discard } from './discard.ts';
import { CHUNK, type Keystream, keystream } from './keystream.ts';
import { asSigned, type Mask } from './mask.ts';
import { type QuantiseOptions, quantise } from './quantise.ts';

/** What a client does to its update before it sends it: plain data, for a thread. */
export interface MaskJob {
  /** Its memory takes the result. */
  readonly update: Float32Array;
  readonly rounding: Rounding;
  readonly masks: readonly Mask[];
}

/** How an update becomes integers. */
export interface Rounding {
  readonly levels: QuantiseOptions;
  /** What the chances of its two neighbouring levels come from. */
  readonly key: Uint8Array;
}

/** A part of the elements of all updates, for a thread. */
export interface MaskTask {
  readonly jobs: readonly MaskJob[];
  readonly from: number;
  readonly to: number;
}

/** A mask of one client, or of two: who is first to need words of it makes them for both. */
interface SharedMask {
  readonly stream: Keystream;
  /** Vectors that it goes into. */
  readonly vectors: number;
  words: Int32Array | null;
  /** Vectors that these words have yet to go into. */
  left: number;
}

/**
 * Updates of one length as they leave their clients: weighted, as integers, under masks, in the memory that the updates were in. A mask
 * that two clients have in common is made once. Words of such masks wait for their second client: there are the fewer of them the nearer
 * neighbours are to each other in the list.
 * @param from first element that is done; a multiple of `CHUNK`
 * @param to end of those that are; the rest stays as it is
 */
export function maskUpdates(jobs: readonly MaskJob[], from = 0, to = jobs[0]?.update.length ?? 0): void {
  const known = new Map<string, SharedMask>();
  const clients = jobs.map(({ update, rounding, masks }) => ({
    update,
    levels: rounding.levels,
    chances: keystream(rounding.key, from),
    masks: masks.map(({ key, sign }) => {
      const name = Buffer.from(key).toString('latin1');
      const found = known.get(name) ?? { stream: keystream(key, from), vectors: 0, words: null, left: 0 };
      const mask = { ...found, vectors: found.vectors + 1 };
      known.set(name, mask);
      return { name, sign };
    }),
  }));
  for (let at = from; at < to; at += CHUNK) {
    const end = Math.min(at + CHUNK, to);
    for (const { update, levels, chances, masks } of clients) {
      const values = update.subarray(at, end);
      const vector = maskedIn(values);
      quantise(values, levels, chances, vector);
      const used = masks.map(({ name, sign }) => {
        const mask = known.get(name) as SharedMask;
        if (mask.words === null) {
          mask.words = mask.stream(end - at);
          mask.left = mask.vectors;
        }
        return { mask, words: mask.words, sign };
      });
      const of = (wanted: 1 | -1) => used.filter(({ sign }) => sign === wanted).map(({ words }) => words);
      addIntegers(asSigned(vector), of(1), of(-1));
      for (const { mask, words } of used) {
        mask.left -= 1;
        if (mask.left > 0) continue;
        discard(words);
        mask.words = null;
      }
    }
  }
}

/** What is in an update's memory after it was masked. */
export function maskedIn(update: Float32Array): Uint32Array {
  return new Uint32Array(update.buffer, update.byteOffset, update.length);
}
