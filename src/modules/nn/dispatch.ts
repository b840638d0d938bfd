import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { withoutGradient } from '../no-gradient.ts';

/** Which of the assignments of an overfull expert are dropped: later tokens, or those of lower score. */
export type DropPolicy = 'position' | 'probs';

/**
 * Where the `A = T * K` assignments of tokens to experts go: an order sorted by expert and, within one, by token.
 * Everything has a static shape; dropped assignments stand at the end, after all experts' rows.
 */
export interface DispatchPlan {
  /** Rows of each expert, int32 `[E]`. */
  readonly counts: Tensor;
  /** Row of each assignment (token-major), int32 `[A]`. */
  readonly destination: Tensor;
  /** Assignment of each row: the inverse permutation, int32 `[A]`. */
  readonly source: Tensor;
  /** Token of each row, int32 `[A]`. */
  readonly token: Tensor;
}

/**
 * Plans the dispatch of one-hot choices `[T, K, E]`. With `kept` `[A]` (1 or 0), assignments that are not kept go to
 * nobody. No gradient flows through a plan.
 */
export function planDispatch(chosen: Tensor, kept: Tensor | null): DispatchPlan {
  const [tokens, topK, experts] = chosen.shape as [number, number, number];
  const assignments = tokens * topK;
  // Row numbers are summed as float32, which is exact below 2^24 and faster than int32.
  if (assignments >= 2 ** 24)
    throw new RangeError(`${assignments} assignments in a microbatch; at most 2^24 can be numbered`);
  return withoutGradient(() => {
    const wanted = tf.reshape(chosen, [assignments, experts]);
    let column = wanted;
    if (kept) {
      // Dropped assignments are given to one expert more, which comes last and whose rows nobody processes.
      const keep = tf.reshape(kept, [assignments, 1]);
      column = tf.concat([tf.mul(wanted, keep), tf.sub(1, keep)], 1);
    }
    const counts = tf.sum(column, 0);
    const first = tf.cumsum(counts, 0, true);
    const destination = tf.cast(tf.sum(tf.mul(column, tf.add(tf.cumsum(column, 0, true), first)), 1), 'int32');
    const at = tf.reshape(destination, [assignments, 1]);
    const source = tf.scatterND(at, tf.tensor1d(numbers(assignments, 1), 'int32'), [assignments]);
    const token =
      topK === 1 ? source : tf.scatterND(at, tf.tensor1d(numbers(assignments, topK), 'int32'), [assignments]);
    return { counts: tf.cast(kept ? tf.slice(counts, 0, experts) : counts, 'int32'), destination, source, token };
  });
}

/** Rows that one expert takes at most: `factor` times an even share, rounded up. */
export function capacityOf(factor: number, assignments: number, experts: number): number {
  return Math.max(1, Math.ceil((factor * assignments) / experts));
}

/**
 * Which assignments fit when each expert takes `capacity`: float32 `[A]` of 1 and 0. `position` keeps the earliest tokens;
 * `probs` those with the highest `scores` `[A]`, of equal ones the earliest.
 */
export function keepWithinCapacity(chosen: Tensor, scores: Tensor, capacity: number, policy: DropPolicy): Tensor {
  const [tokens, topK, experts] = chosen.shape as [number, number, number];
  const assignments = tokens * topK;
  return withoutGradient(() => {
    const wanted = tf.reshape(chosen, [assignments, experts]);
    if (policy === 'position') return fits(wanted, capacity);
    const { indices } = tf.topk(tf.reshape(scores, [assignments]), assignments, true);
    const kept = fits(tf.gather(wanted, indices as tf.Tensor1D), capacity);
    return tf.scatterND(tf.reshape(indices, [assignments, 1]), kept, [assignments]);
  });
}

/** Copies each token's vector `[T, d]` into the rows of its experts `[A, d]`. */
export function dispatchRows(x: Tensor, plan: DispatchPlan): Tensor {
  const [tokens, width] = x.shape as [number, number];
  const topK = plan.source.size / tokens;
  // The gradient of a copy is a sum. Gathering the copies first makes it a sum in a fixed order, without a scatter.
  return gatherRows(x, plan.token, [plan.destination], (dy, [destination]) => {
    const copies = tf.gather(dy, destination as tf.Tensor1D);
    return topK === 1 ? copies : tf.sum(tf.reshape(copies, [tokens, topK, width]), 1);
  });
}

/** Brings the experts' rows `[A, d]` back and adds each token's, weighted by its gates `[T, K]`: `[T, d]`. */
export function combineRows(rows: Tensor, gates: Tensor, plan: DispatchPlan): Tensor {
  const [tokens, topK] = gates.shape as [number, number];
  const width = rows.shape[1] as number;
  const back = gatherRows(rows, plan.destination, [plan.source], (dy, [source]) =>
    tf.gather(dy, source as tf.Tensor1D),
  );
  if (topK === 1) return tf.mul(back, gates);
  return tf.sum(tf.mul(tf.reshape(back, [tokens, topK, width]), tf.reshape(gates, [tokens, topK, 1])), 1);
}

/** `x[indices]` with a gradient of its own, for when the inverse of the selection is known. `keep` is kept for it. */
export function gatherRows(
  x: Tensor,
  indices: Tensor,
  keep: Tensor[],
  gradient: (dy: Tensor, kept: readonly Tensor[]) => Tensor,
): Tensor {
  return withGradient(x, (input) => tf.gather(input, indices as tf.Tensor1D), keep, gradient);
}

/** A function of one tensor with a gradient of its own. tfjs may free what the gradient needs unless it is in `keep`. */
export function withGradient(
  x: Tensor,
  forward: (x: Tensor) => Tensor,
  keep: Tensor[],
  gradient: (dy: Tensor, kept: readonly Tensor[]) => Tensor,
): Tensor {
  return tf.customGrad((input, save) => {
    (save as tf.GradSaveFunc)(keep);
    return { value: forward(input as Tensor), gradFunc: (dy: Tensor, saved: Tensor[]) => gradient(dy, saved) };
  })(x);
}

/** 1 where fewer than `capacity` earlier rows ask for the same expert. */
function fits(wanted: Tensor, capacity: number): Tensor {
  const earlier = tf.sum(tf.mul(wanted, tf.cumsum(wanted, 0, true)), 1);
  return tf.cast(tf.less(earlier, capacity), 'float32');
}

/** `floor(i / divisor)` for i below `count`. */
function numbers(count: number, divisor: number): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => Math.floor(i / divisor));
}
