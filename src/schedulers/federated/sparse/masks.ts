/** Positions by falling magnitude; of equal ones the earliest first. */
function byMagnitude(values: ArrayLike<number>, positions: number[]): number[] {
  return positions.sort((a, b) => Math.abs(values[b] as number) - Math.abs(values[a] as number) || a - b);
}

/** A mask that keeps the `count` numbers of the largest magnitude. */
export function magnitudeMask(values: Float32Array, count: number): Float32Array {
  const mask = new Float32Array(values.length);
  const order = byMagnitude(
    values,
    Array.from(values, (_, i) => i),
  );
  for (const at of order.slice(0, count)) mask[at] = 1;
  return mask;
}

/** Sets what a mask leaves out to 0. */
export function applyMask(values: Float32Array, mask: Float32Array): void {
  for (let i = 0; i < values.length; i++) if (mask[i] === 0) values[i] = 0;
}

/** Gradients at some places of a weight. */
export interface PlacedGradients {
  readonly places: ArrayLike<number>;
  readonly values: ArrayLike<number>;
  readonly weight: number;
}

/**
 * Grows and prunes a weight in place: of the places that clients sent gradients of, those `count` with the largest weighted sums
 * take part from now on, beginning at 0; as many of the kept numbers of the smallest magnitude go. Returns how many were
 * exchanged: fewer than `count` where fewer places were sent. Huang et al., FedTiny (2022), algorithm 2.
 */
export function growAndPrune(
  values: Float32Array,
  mask: Float32Array,
  sent: readonly PlacedGradients[],
  count: number,
): number {
  const sums = new Map<number, number>();
  for (const { places, values: gradients, weight } of sent)
    for (let i = 0; i < places.length; i++) {
      const place = places[i] as number;
      if (mask[place] === 0) sums.set(place, (sums.get(place) ?? 0) + weight * (gradients[i] as number));
    }
  const grown = [...sums]
    .filter(([, sum]) => sum !== 0)
    .sort(([a, x], [b, y]) => Math.abs(y) - Math.abs(x) || a - b)
    .slice(0, count)
    .map(([place]) => place);
  const kept: number[] = [];
  for (let i = 0; i < mask.length; i++) if (mask[i] === 1) kept.push(i);
  const exchanged = Math.min(grown.length, kept.length);
  const pruned = exchanged === 0 ? [] : byMagnitude(values, kept).slice(-exchanged);
  for (const place of pruned) {
    mask[place] = 0;
    values[place] = 0;
  }
  for (const place of grown.slice(0, exchanged)) {
    mask[place] = 1;
    values[place] = 0;
  }
  return exchanged;
}

/**
 * Numbers of a weight to exchange in a round: rate (1 + cos(π round / until)) of those kept, 0 from `until` on. FedTiny has a rate
 * of 0.15.
 */
export function exchangeCount(kept: number, round: number, until: number, rate: number): number {
  return round >= until ? 0 : Math.floor(rate * (1 + Math.cos((Math.PI * round) / until)) * kept);
}
