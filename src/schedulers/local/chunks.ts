/** Steps of one batch size that one executable makes. */
export interface Chunk {
  readonly size: number;
  readonly start: number;
  readonly steps: number;
}

/**
 * Cuts steps into runs: equal sizes together, `most` at a time, and what is left of them in one more. A run costs as much as its
 * calls, so five steps are one executable and not one of four and one of one.
 */
export function chunks(batches: readonly Int32Array[], most: number): Chunk[] {
  const found: Chunk[] = [];
  let start = 0;
  while (start < batches.length) {
    const size = (batches[start] as Int32Array).length;
    let end = start + 1;
    while (end < batches.length && end - start < most && (batches[end] as Int32Array).length === size) end += 1;
    found.push({ size, start, steps: end - start });
    start = end;
  }
  return found;
}
