import type { Seen } from './compose.ts';

/**
 * Lets neighbouring tasks mix: over the last part of each task and the first of the next, the share of the next one's examples rises
 * evenly from none to all. Everything is still seen as often, and as much of it before each end as without.
 * @param sequences the new examples of each task in order
 * @param share of a task that is mixed with its neighbours, half of it with each
 */
export function mixNeighbours(sequences: readonly (readonly Seen[])[], share: number): Seen[][] {
  const mixed = sequences.map((sequence) => [...sequence]);
  for (let next = 1; next < mixed.length; next++) {
    const [before, after] = [mixed[next - 1] as Seen[], mixed[next] as Seen[]];
    const [tail, head] = [before, after].map(({ length }) => Math.floor((share / 2) * length)) as [number, number];
    const window = [
      // Places in a window of length 1, as evenly as their densities 2 (1 - u) and 2 u have it.
      ...before.slice(before.length - tail).map((seen, i) => ({ seen, at: 1 - Math.sqrt(1 - (i + 0.5) / tail) })),
      ...after.slice(0, head).map((seen, i) => ({ seen, at: Math.sqrt((i + 0.5) / head) })),
    ].sort((a, b) => a.at - b.at);
    const order = window.map(({ seen }) => seen);
    before.splice(before.length - tail, tail, ...order.slice(0, tail));
    after.splice(0, head, ...order.slice(tail));
  }
  return mixed;
}
