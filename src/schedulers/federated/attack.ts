import * as z from 'zod';
import type { Batch, Split } from '../../data/index.ts';
import { createRng, int32, permutation } from '../../tensor/index.ts';

/** What malicious clients do. */
export const attackSchema = z
  .strictObject({
    name: z
      .enum(['sign-flip', 'label-flip', 'gaussian', 'scale', 'nan'])
      .describe(
        'sign-flip: the update points the other way; label-flip: trains with class k taken for the last class - k; ' +
          'gaussian: noise instead of an update; scale: the update is too large; nan: no numbers at all',
      ),
    share: z
      .number()
      .min(0)
      .max(1)
      .default(0.2)
      .describe('share of clients that are malicious, the same in all rounds'),
    factor: z
      .number()
      .positive()
      .default(1)
      .describe('what the update is multiplied by besides (by gaussian: the standard deviation of the noise)'),
  })
  .nullable()
  .default(null)
  .describe('what a part of the clients does to spoil the training; null: all are honest');

/** Settings of an attack; null where all clients are honest. */
export type AttackConfig = z.output<typeof attackSchema>;

/** What one malicious client does in one fit: plain data, for a thread. */
export interface ClientAttack {
  readonly name: NonNullable<AttackConfig>['name'];
  readonly factor: number;
  /** Key of the noise. */
  readonly seed: number;
}

/** Clients among which the malicious ones are spread evenly. */
const BLOCK = 10;

/**
 * Whether a client is malicious: exactly `share` of every ten (as nearly as whole clients allow), which of them drawn from
 * the seed. Costs nothing but the asking, however many clients there are.
 */
export function isMalicious(client: number, share: number, seed: number): boolean {
  const block = Math.floor(client / BLOCK);
  const order = permutation(BLOCK, createRng(seed).fork('malicious clients', block));
  const place = block * BLOCK + (order[client % BLOCK] as number);
  return Math.floor((place + 1) * share) > Math.floor(place * share);
}

/** What a client reads: class k as class `classes - 1 - k` where its attack flips labels, else what is there. */
export function attackedSplit(
  split: Split,
  attack: ClientAttack | null | undefined,
  classes: number | undefined,
): Split {
  if (attack?.name !== 'label-flip') return split;
  if (classes === undefined)
    throw new Error('scheduler.behaviour.attack: label-flip needs class labels, which the dataset does not have');
  return {
    ...split,
    batch: (indices): Batch => {
      const { inputs, targets } = split.batch(indices);
      return {
        inputs,
        targets: targets.map(({ data, shape }) =>
          int32(
            Int32Array.from(data as Int32Array, (label) => classes - 1 - label),
            shape,
          ),
        ),
      };
    },
  };
}

/** Changes an update in place as a malicious client does before it sends it. */
export function spoilUpdate(update: Float32Array, attack: ClientAttack, round: number, client: number): void {
  const { name, factor, seed } = attack;
  switch (name) {
    case 'nan':
      update.fill(Number.NaN);
      return;
    case 'gaussian': {
      const rng = createRng(seed).fork('attack', round, client);
      for (let i = 0; i < update.length; i++) update[i] = factor * rng.normal();
      return;
    }
    case 'sign-flip':
    case 'label-flip':
    case 'scale': {
      const scale = name === 'sign-flip' ? -factor : factor;
      if (scale === 1) return;
      for (let i = 0; i < update.length; i++) update[i] = scale * (update[i] as number);
      return;
    }
    default:
      throw new Error(`unknown attack ${name satisfies never}`);
  }
}
