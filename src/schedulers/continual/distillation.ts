import { tf } from '../../engine/index.ts';
import type { Seen } from './compose.ts';
import { MASKED, maskRow } from './output-masks.ts';
import type { ScenarioShape } from './scenario.ts';
import type { TaskEnd } from './strategy.ts';

type Tensor = tf.Tensor;

/** Outputs of all tasks up to and including one, in order. */
export function outputsSoFar({ outputsOf }: Pick<ScenarioShape, 'outputsOf'>, task: number): number[] {
  return [...new Set(outputsOf.slice(0, task + 1).flat())].sort((a, b) => a - b);
}

/**
 * Rows of a target that a teacher fills in anew for each task: one for each example that the task's steps have, in the order in which
 * they come first.
 */
export function teacherRows(): (task: number, seen: Seen) => number {
  let current = -1;
  let rows = new Map<string, number>();
  return (task, { example, task: of }) => {
    if (task !== current) rows = new Map();
    current = task;
    const key = `${of} ${example}`;
    const row = rows.get(key) ?? rows.size;
    rows.set(key, row);
    return row;
  };
}

/** By row of `teacherRows`: the first position that it has in a task. */
export function firstPositions(
  { rows, positions, task }: Pick<TaskEnd, 'rows' | 'positions' | 'task'>,
  target: string,
) {
  const all = rows(target);
  const { from, to } = positions(task);
  const first: number[] = [];
  for (let position = from; position < to; position++) first[all[position] as number] ??= position;
  return Int32Array.from(first);
}

/**
 * What a teacher says in each row: softmax(logits / temperature) over each group of outputs by itself, times the share of that group; -1
 * for outputs of no group, which it knows nothing of.
 */
export function softened(
  logits: Float32Array,
  {
    width,
    groups,
    temperature,
  }: { readonly width: number; readonly groups: readonly (readonly number[])[]; readonly temperature: number },
): Float32Array {
  const out = new Float32Array(logits.length).fill(-1);
  for (let row = 0; row < logits.length; row += width)
    for (const group of groups) {
      const values = group.map((output) => (logits[row + output] as number) / temperature);
      const top = Math.max(...values);
      const exps = values.map((value) => Math.exp(value - top));
      const total = exps.reduce((sum, value) => sum + value, 0) * groups.length;
      for (const [i, output] of group.entries()) out[row + output] = (exps[i] as number) / total;
    }
  return out;
}

/** A row that lets some outputs take part in a softmax, to be added to logits: float32 `[1, width]`. */
export function maskOf(outputs: readonly number[], width: number): Tensor {
  return tf.tensor2d(maskRow(outputs, width), [1, width]);
}

/**
 * Cross entropy between softened answers, of each example: -T^2 sum_k sum_o p_o log softmax(z / T)_o, each softmax over those outputs of
 * a group that the teacher knows. T^2 keeps gradients as large as those of hard labels (Hinton, Vinyals and Dean, Distilling the
 * knowledge in a neural network, 2015, section 2).
 */
export function distillationLoss(
  logits: Tensor,
  teacher: Tensor,
  { masks, temperature }: { readonly masks: readonly Tensor[]; readonly temperature: number },
): Tensor {
  const known = tf.cast(tf.greaterEqual(teacher, 0), 'float32');
  const cooled = tf.add(tf.div(logits, temperature), tf.mul(tf.sub(1, known), MASKED));
  const terms = masks.map((mask) => {
    const within = tf.mul(tf.cast(tf.greater(mask, MASKED / 2), 'float32'), known);
    return tf.sum(tf.mul(tf.mul(teacher, within), tf.logSoftmax(tf.add(cooled, mask))), 1);
  });
  return tf.mul(
    terms.reduce((sum, term) => tf.add(sum, term)),
    -temperature * temperature,
  );
}
