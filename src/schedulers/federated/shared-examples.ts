import type { Partition, PartitionSource } from '../../data/index.ts';
import { createRng, permutation } from '../../tensor/index.ts';

/** Training examples that all clients may see, and the rest, of which each is one client's alone. */
export interface SetAside {
  /** In rising order; null where none were asked for. */
  readonly shared: Int32Array | null;
  /** What a partitioner is told: the rest, numbered from 0. */
  readonly rest: PartitionSource;
  /** A partition of the rest as one of all training examples. */
  of(partition: Partition): Partition;
}

/**
 * Sets training examples aside for all clients to see, drawn from the seed.
 * @throws RangeError if not one example is left for the clients
 */
export function setAside(source: PartitionSource, count: number, seed: number): SetAside {
  if (count === 0) return { shared: null, rest: source, of: (partition) => partition };
  if (count >= source.examples)
    throw new RangeError(
      `${count} public examples are to be set aside, but there are only ${source.examples}; set scheduler.public to fewer`,
    );
  const order = permutation(source.examples, createRng(seed).fork('public examples'));
  const shared = order.slice(0, count).sort();
  const rest = order.slice(count).sort();
  const { labels, keys } = source;
  return {
    shared,
    rest: {
      examples: rest.length,
      labels: labels === null ? null : Array.from(rest, (i) => labels[i] as number),
      ...(keys ? { keys: Array.from(rest, (i) => keys[i] as string) } : {}),
    },
    of: (partition) => ({
      ...partition,
      examples: (client) => partition.examples(client).map((i) => rest[i] as number),
    }),
  };
}
