/** A stretch of one tensor inside a piece of the flat layout. Offsets in elements. */
export interface Run {
  readonly unit: number;
  readonly tensor: number;
  /** First element within the tensor. */
  readonly start: number;
  readonly length: number;
}

/** Half-open range of elements of the flat layout. */
export interface Piece {
  readonly start: number;
  readonly end: number;
}

interface Segment {
  readonly unit: number;
  readonly tensor: number;
  readonly start: number;
  readonly end: number;
}

/**
 * Many tensors seen as one line of elements, so that they can be cut into equal shares and few messages whatever their
 * shapes are. Nothing is copied: the layout only tells which stretches of which tensors a piece consists of.
 */
export class FlatLayout {
  readonly total: number;
  readonly #segments: readonly Segment[];

  /**
   * @param sizes element counts of the tensors of each unit
   * @param includes leaves tensors out; default none
   */
  constructor(sizes: readonly (readonly number[])[], includes: (unit: number, tensor: number) => boolean = () => true) {
    const segments: Segment[] = [];
    let offset = 0;
    sizes.forEach((unitSizes, unit) => {
      unitSizes.forEach((size, tensor) => {
        if (!includes(unit, tensor)) return;
        if (size > 0) segments.push({ unit, tensor, start: offset, end: offset + size });
        offset += size;
      });
    });
    this.total = offset;
    this.#segments = segments;
  }

  /** Cuts the line into `shares` nearly equal shares (at multiples of 16 elements: a cache line). */
  share(index: number, shares: number): Piece {
    const cut = (i: number) => (i === shares ? this.total : Math.floor((i * this.total) / shares / 16) * 16);
    return { start: cut(index), end: cut(index + 1) };
  }

  /** Cuts a piece into pieces of at most `limit` elements; always at least one, which may be empty. */
  pieces(piece: Piece, limit: number): Piece[] {
    const pieces: Piece[] = [];
    for (let start = piece.start; start < piece.end; start += limit)
      pieces.push({ start, end: Math.min(start + limit, piece.end) });
    return pieces.length > 0 ? pieces : [piece];
  }

  /** The stretches of tensors in a piece, in order. */
  runs(piece: Piece): Run[] {
    let low = 0;
    let high = this.#segments.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#segments[middle] as Segment).end <= piece.start) low = middle + 1;
      else high = middle;
    }
    const runs: Run[] = [];
    for (let i = low; i < this.#segments.length; i++) {
      const segment = this.#segments[i] as Segment;
      if (segment.start >= piece.end) break;
      const start = Math.max(segment.start, piece.start);
      const end = Math.min(segment.end, piece.end);
      runs.push({ unit: segment.unit, tensor: segment.tensor, start: start - segment.start, length: end - start });
    }
    return runs;
  }
}
