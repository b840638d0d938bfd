import { createRng, permutation } from '../../tensor/index.ts';

/** What the order of a client's local training depends on. */
export interface ClientOrder {
  readonly seed: number;
  readonly round: number;
  readonly client: number;
  readonly examples: Int32Array;
  readonly epochs: number;
  readonly batch: number;
  readonly maxSteps: number | null;
  /** Name of the pass, where a fit has several; each has an order of its own. */
  readonly pass?: string;
}

/**
 * Batches of a client's fit: every epoch is a permutation of its own examples keyed by (seed, round, client, epoch), cut into
 * batches, the last one smaller. It depends on nothing else, so a fit has the same bits wherever it runs.
 */
export function clientBatches(order: ClientOrder): Int32Array[] {
  const { seed, round, client, examples, epochs, batch, maxSteps, pass = '' } = order;
  const rounds = createRng(seed).fork('client order', round, client);
  const rng = pass === '' ? rounds : rounds.fork(pass);
  const batches: Int32Array[] = [];
  const most = maxSteps ?? Number.POSITIVE_INFINITY;
  for (let epoch = 0; epoch < epochs && batches.length < most; epoch++) {
    const shuffled = permutation(examples.length, rng.fork(epoch));
    for (let start = 0; start < shuffled.length && batches.length < most; start += batch)
      batches.push(shuffled.subarray(start, start + batch).map((i) => examples[i] as number));
  }
  return batches;
}
