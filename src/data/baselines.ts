import { countPairs } from './pair-counts.ts';

/** Windows of tokens: example i is `context` targets that follow the tokens from `i * stride` on. */
export interface Windows {
  readonly tokens: ArrayLike<number>;
  readonly context: number;
  readonly stride: number;
}

/** Reference losses of counting models on given windows, in nats per token, trained on `train`. */
export interface TextBaselines {
  /** Token frequencies, add-one smoothed. */
  readonly unigram: number;
  /** Frequencies after the previous token, interpolated Kneser-Ney. */
  readonly bigram: number;
}

/**
 * Scores unigram and bigram models on exactly the targets that the model is scored on: each target of each window, with
 * the token before it (which is always inside the window) as context.
 *
 * The bigram is interpolated Kneser-Ney (Ney, Essen and Kneser 1994; Chen and Goodman 1999, section 4.1.6) with the usual
 * discounts n1 / (n1 + 2 n2), and continuation counts interpolated with the uniform distribution: the strongest plain
 * bigram there is, so beating it means something.
 */
export function textBaselines(
  train: ArrayLike<number>,
  vocab: number,
  windows: Windows,
  examples: Iterable<number>,
): TextBaselines {
  const pairs = countPairs(train, vocab);
  const contextCount = new Float64Array(vocab); // bigrams that begin with a token
  const followers = new Float64Array(vocab); // different tokens after it
  const predecessors = new Float64Array(vocab); // different tokens before it
  let once = 0;
  let twice = 0;
  pairs.forEach((before, token, count) => {
    contextCount[before] = (contextCount[before] as number) + count;
    followers[before] = (followers[before] as number) + 1;
    predecessors[token] = (predecessors[token] as number) + 1;
    if (count === 1) once += 1;
    else if (count === 2) twice += 1;
  });
  const discount = discountOf(once, twice);
  // Every token but the last begins a bigram.
  const counts = contextCount.slice();
  const last = train[train.length - 1];
  if (last !== undefined) counts[last] = (counts[last] as number) + 1;
  const lowerDiscount = discountOf(
    predecessors.reduce((sum, n) => sum + (n === 1 ? 1 : 0), 0),
    predecessors.reduce((sum, n) => sum + (n === 2 ? 1 : 0), 0),
  );
  const kinds = predecessors.reduce((sum, n) => sum + (n > 0 ? 1 : 0), 0);
  // With no bigram at all (a training text of one token) only the uniform distribution is left.
  const continuation = (token: number) =>
    pairs.size === 0
      ? 1 / vocab
      : (Math.max((predecessors[token] as number) - lowerDiscount, 0) + (lowerDiscount * kinds) / vocab) / pairs.size;

  let unigram = 0;
  let bigram = 0;
  let scored = 0;
  for (const example of examples) {
    const start = example * windows.stride;
    for (let i = start; i < start + windows.context; i++) {
      const before = windows.tokens[i] as number;
      const token = windows.tokens[i + 1] as number;
      unigram -= Math.log(((counts[token] as number) + 1) / (train.length + vocab));
      const seen = contextCount[before] as number;
      const backoff = continuation(token);
      const count = pairs.get(before, token);
      const probability =
        seen === 0
          ? backoff
          : (Math.max(count - discount, 0) + discount * (followers[before] as number) * backoff) / seen;
      bigram -= Math.log(probability);
      scored += 1;
    }
  }
  return { unigram: unigram / scored, bigram: bigram / scored };
}

/** Absolute discount n1 / (n1 + 2 n2), n1 and n2 being how many counts are 1 and 2; kept inside (0, 1) where one is 0. */
function discountOf(once: number, twice: number): number {
  return Math.min(0.95, Math.max(0.05, once === 0 ? 0 : once / (once + 2 * twice)));
}
