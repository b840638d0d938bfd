import { createRng, permutation } from '../../tensor/index.ts';
import type { Partition } from './partition.ts';

/**
 * Parts each client's examples in two: those it trains on, and a fraction that it is only measured on (rounded down, so that
 * a client with few examples trains on all of them). Drawn from the seed, by client, when they are asked for.
 */
export function heldOut(
  partition: Partition,
  fraction: number,
  seed: number,
): { readonly train: Partition; readonly held: Partition } {
  const { clients } = partition;
  const heldOf = (client: number) => Math.floor(partition.size(client) * fraction);
  const part = (client: number, held: boolean): Int32Array => {
    const examples = partition.examples(client);
    const count = heldOf(client);
    const order = permutation(examples.length, createRng(seed).fork('held out', client));
    const chosen = new Set(order.subarray(0, count));
    // In the client's own order, so that nothing else changes with the fraction.
    return examples.filter((_, i) => chosen.has(i) === held);
  };
  return {
    train: {
      clients,
      size: (client) => partition.size(client) - heldOf(client),
      examples: (client) => (fraction === 0 ? partition.examples(client) : part(client, false)),
    },
    held: { clients, size: heldOf, examples: (client) => part(client, true) },
  };
}
