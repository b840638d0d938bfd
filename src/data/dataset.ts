import type { TaskInfo } from '../modules/index.ts';
import type { HostTensor } from '../tensor/index.ts';

/** Which part of a dataset. */
export type SplitName = 'train' | 'validation' | 'test';

/** A microbatch on the host: leading dimension is the microbatch size. */
export interface Batch {
  readonly inputs: readonly HostTensor[];
  readonly targets: readonly HostTensor[];
}

/** One part of a dataset, addressed by example. */
export interface Split {
  readonly name: SplitName;
  readonly examples: number;
  /** Class of each example, where there is one for each; what partitioners go by. */
  readonly labels?: ArrayLike<number>;
  /** Whether its examples are to be taken as they come, each once, rather than in the order that a seed gives. */
  readonly ordered?: true;
  /**
   * Gathers examples into a batch of fresh tensors. `spent`: a batch of as many examples of this dataset that nobody looks at any
   * more, in whose memory the new one may be.
   * @throws RangeError on an index out of range.
   */
  batch(indices: Int32Array, spent?: Batch): Batch;
}

/** A dataset as a worker sees it: already on this machine, random access, no state. */
export interface Dataset {
  readonly name: string;
  readonly info: TaskInfo;
  /** What a model is built for, where that is less than `info`: without targets that only a scheduler's loss uses. */
  readonly modelInfo?: TaskInfo;
  /** Examples are tokens for text: the unit of `tokens_per_s`. Tokens per example, or 1 where examples are the unit. */
  readonly tokensPerExample: number;
  split(name: SplitName): Split;
  /**
   * Reference losses on the validation split, e.g. unigram and bigram for text in nats per token; empty where there are
   * none. Measured on `examples` of it (default all), so that they compare with an evaluation of just those.
   */
  baselines(examples?: Int32Array): Readonly<Record<string, number>>;
}

/**
 * A dataset prepared once (read, tokenised) in a form that can be posted to worker threads without a copy: arrays are
 * backed by SharedArrayBuffer. `kind` says which opener understands it.
 */
export interface PreparedData {
  readonly kind: string;
  readonly info: TaskInfo;
  readonly [key: string]: unknown;
}
