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
  /** What was asked for last, which the next example mostly asks for as well. */
  #last: { readonly outputs: readonly number[] | null; readonly row: number } | null = null;

  /** @param width outputs of the model */
  constructor(width: number) {
    this.#width = width;
  }

  /** The row for these outputs; null for all. */
  row(outputs: readonly number[] | null): number {
    if (this.#last?.outputs === outputs) return this.#last.row;
    const key = outputs === null ? '' : outputs.join(',');
    const row = this.#rows.get(key) ?? this.#rows.size;
    this.#rows.set(key, row);
    this.#last = { outputs, row };
    return row;
  }

  /** The table as it is now, float32 [rows, width], for examples with these rows. */
  values(rows: ArrayLike<number>): StreamValues {
    const width = this.#width;
    const values = new Float32Array(this.#rows.size * width);
    for (const [key, row] of this.#rows) {
      if (key !== '') values.set(maskRow(key.split(',').map(Number), width), row * width);
    }
    return { values: share('float32', values), rows: share('int32', rows) };
  }
}
