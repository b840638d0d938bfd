import { type StreamValues, share } from '../../data/index.ts';

/** What is added to the logits of outputs that take no part. */
export const MASKED = -1e9;

/** What is added to the logits so that only these outputs take part, float32 [width]. */
export function maskRow(outputs: readonly number[], width: number): Float32Array<ArrayBuffer> {
  const row = new Float32Array(width).fill(MASKED);
  for (const output of outputs) row[output] = 0;
  return row;
}

/** Which outputs take part in the loss of an example: a table of rows that are added to logits, each kept once. */
export class OutputMasks {
  readonly #width: number;
  readonly #rows = new Map<string, number>();

  /** @param width outputs of the model */
  constructor(width: number) {
    this.#width = width;
  }

  /** The row for these outputs; null for all. */
  row(outputs: readonly number[] | null): number {
    const key = outputs === null ? '' : outputs.join(',');
    const known = this.#rows.get(key);
    if (known !== undefined) return known;
    this.#rows.set(key, this.#rows.size);
    return this.#rows.size - 1;
  }

  /** The table as it is now, float32 [rows, width], for examples with these rows. */
  values(rows: readonly number[]): StreamValues {
    const width = this.#width;
    const values = new Float32Array(this.#rows.size * width);
    for (const [key, row] of this.#rows) {
      if (key !== '') values.set(maskRow(key.split(',').map(Number), width), row * width);
    }
    return { values: share('float32', values), rows: share('int32', rows) };
  }
}
