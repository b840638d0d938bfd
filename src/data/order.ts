import { createRng, permutation } from '../tensor/index.ts';
import type { Split } from './dataset.ts';

/** What the order of training examples depends on. */
export interface OrderOptions {
  readonly seed: number;
  /** Examples of the training split. */
  readonly examples: number;
  /** Examples of one step, over all ranks. */
  readonly global: number;
  /** Examples of one global microbatch. */
  readonly micro: number;
}

/** Which training examples make up each microbatch of each step. */
export interface DataOrder {
  /** Global microbatches of a step. */
  readonly microbatches: number;
  /** Example indices of a global microbatch (0-based) of a step (0-based). */
  indices(step: number, microbatch: number): Int32Array;
  /** Whole passes over the data before a step, as a fraction: 1.5 is the middle of the second epoch. */
  epochAt(step: number): number;
}

/** Epoch permutations kept at a time: a microbatch touches two at an epoch's end, and loading may run ahead. */
const CACHED_EPOCHS = 3;

/**
 * The order of training examples as a pure function of (seed, step, global microbatch): every epoch is a fresh
 * permutation keyed by (seed, epoch), and steps walk over the epochs' concatenation without dropping or repeating an
 * example. Nothing depends on ranks or on what was asked before, so the step number is the whole data cursor.
 * @throws RangeError if there are no examples, or `micro` does not divide `global`.
 */
export function orderOf({ seed, examples, global, micro }: OrderOptions): DataOrder {
  for (const [name, value] of Object.entries({ examples, 'batch.global': global, 'batch.micro': micro }))
    if (!Number.isInteger(value) || value < 1) throw new RangeError(`${name} must be a positive integer, not ${value}`);
  if (global % micro !== 0)
    throw new RangeError(`batch.micro must divide batch.global, but ${global} / ${micro} leaves ${global % micro}`);
  const root = createRng(seed).fork('data order');
  const epochs = new Map<number, Int32Array>();
  const epochOrder = (epoch: number): Int32Array => {
    let order = epochs.get(epoch);
    if (!order) {
      order = permutation(examples, root.fork(epoch));
      if (epochs.size >= CACHED_EPOCHS) epochs.delete(epochs.keys().next().value as number);
      epochs.set(epoch, order);
    }
    return order;
  };
  const microbatches = global / micro;
  return {
    microbatches,
    indices(step, microbatch) {
      if (!Number.isSafeInteger(step) || step < 0 || !(microbatch >= 0 && microbatch < microbatches))
        throw new RangeError(`there is no microbatch ${microbatch} of step ${step}; a step has ${microbatches}`);
      const start = step * global + microbatch * micro;
      return Int32Array.from({ length: micro }, (_, i) => {
        const position = start + i;
        return epochOrder(Math.floor(position / examples))[position % examples] as number;
      });
    },
    epochAt: (step) => (step * global) / examples,
  };
}

/**
 * The order of a training split's examples: its own where it has one (`ordered`), else that of the seed.
 * @throws RangeError as `orderOf`; where the split is ordered, also for a step that it is too short for
 */
export function trainingOrder(
  split: Pick<Split, 'examples' | 'ordered'>,
  options: Omit<OrderOptions, 'examples'>,
): DataOrder {
  const { examples, ordered } = split;
  const shuffled = orderOf({ ...options, examples });
  if (!ordered) return shuffled;
  const { global, micro } = options;
  return {
    ...shuffled,
    indices(step, microbatch) {
      const start = step * global + microbatch * micro;
      if (!(step >= 0 && microbatch >= 0 && start + micro <= examples))
        throw new RangeError(`step ${step} is past the end of a stream of ${examples} examples, ${global} a step`);
      return Int32Array.from({ length: micro }, (_, i) => start + i);
    },
  };
}

/** Microbatches of just these examples; the last one is filled up with the first of them again. */
export function batchesOf(examples: Int32Array, micro: number): Int32Array[] {
  return Array.from({ length: Math.ceil(examples.length / micro) }, (_, batch) =>
    Int32Array.from({ length: micro }, (_, i) => examples[(batch * micro + i) % examples.length] as number),
  );
}

/** Which examples an evaluation runs over. */
export interface EvaluationOptions {
  /** Examples of the split. */
  readonly examples: number;
  readonly micro: number;
  /** Microbatches at most; null for all. */
  readonly max?: number | null;
}

/**
 * The microbatches of an evaluation, all of `micro` examples: each example at most once, in a fixed scattered order that
 * no seed changes, so that a limited evaluation sees a fair sample, the same one every time. Up to `micro - 1` examples
 * are left out (executables have fixed shapes); a split smaller than one microbatch is repeated to fill it.
 */
export function evaluationBatches({ examples, micro, max = null }: EvaluationOptions): Int32Array[] {
  if (examples === 0) return [];
  const order = permutation(examples, createRng('plexus evaluation order'));
  const full = Math.max(1, Math.floor(examples / micro));
  return Array.from({ length: max === null ? full : Math.min(full, max) }, (_, batch) =>
    Int32Array.from({ length: micro }, (_, i) => order[(batch * micro + i) % examples] as number),
  );
}
