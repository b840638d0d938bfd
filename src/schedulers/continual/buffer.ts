import type { Rng } from '../../tensor/index.ts';
import type { Seen } from './compose.ts';

/** An example in a buffer, with the place that it has there. */
export interface Kept extends Seen {
  readonly slot: number;
}

/** Remembers some of the examples that have been seen. */
export interface ExampleBuffer {
  readonly capacity: number;
  /** What it holds, by slot. */
  readonly held: readonly Kept[];
  /** Offers an example; the slot that it was put into, or -1. */
  offer(seen: Seen): number;
  /** `count` of those held, each at most once; fewer if it holds fewer. */
  draw(count: number, rng: Rng): Kept[];
}

/** Draws without replacement. */
function drawFrom(held: readonly Kept[], count: number, rng: Rng): Kept[] {
  const wanted = Math.min(count, held.length);
  // Floyd's sampling: as many draws as are wanted, however much is held.
  const chosen = new Set<number>();
  for (let top = held.length - wanted; top < held.length; top++) {
    const pick = rng.integer(top + 1);
    chosen.add(chosen.has(pick) ? top : pick);
  }
  return [...chosen].map((i) => held[i] as Kept);
}

/** Every example seen so far is held with the same probability (Vitter, Random sampling with a reservoir, 1985, algorithm R). */
export function reservoir(capacity: number, rng: Rng): ExampleBuffer {
  const held: Kept[] = [];
  let offered = 0;
  return {
    capacity,
    held,
    offer(seen) {
      const slot = offered < capacity ? offered : rng.integer(offered + 1);
      offered += 1;
      if (slot >= capacity) return -1;
      held[slot] = { ...seen, slot };
      return slot;
    },
    draw: (count, by) => drawFrom(held, count, by),
  };
}

/**
 * Classes have equal shares: an example of a class that has less than its share takes the place of a random one of the
 * largest class (GDumb's greedy sampler: Prabhu, Torr and Dokania, 2020, algorithm 1).
 */
export function classBalanced(capacity: number, rng: Rng, classOf: (seen: Seen) => number): ExampleBuffer {
  const held: Kept[] = [];
  const slots = new Map<number, number[]>();
  const largest = (): number[] =>
    [...slots.values()].reduce((most, own) => (own.length > most.length ? own : most), []);
  return {
    capacity,
    held,
    offer(seen) {
      const label = classOf(seen);
      const own = slots.get(label) ?? [];
      slots.set(label, own);
      let slot = held.length;
      if (held.length >= capacity) {
        const share = capacity / slots.size;
        if (own.length >= share) return -1;
        const from = largest();
        [slot] = from.splice(rng.integer(from.length), 1) as [number];
      }
      own.push(slot);
      held[slot] = { ...seen, slot };
      return slot;
    },
    draw: (count, by) => drawFrom(held, count, by),
  };
}
