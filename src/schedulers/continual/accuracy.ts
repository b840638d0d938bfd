import type { MeasureSession } from '../../coordinator/index.ts';
import { view } from '../../data/index.ts';
import type { HostTensor } from '../../tensor/index.ts';
import { OUTPUTS, TOKEN_LOSS, TOKENS_RIGHT } from './loss.ts';
import type { ContinualPlan } from './scheduler.ts';

/** What an evaluation of all tasks needs besides the session. */
export interface AccuracyOptions {
  /** Tasks that have been learnt. */
  readonly learnt: number;
  readonly kept: (name: string) => HostTensor | null;
  /** Shows the model as it is for a task; null takes that back. */
  readonly show?: ((task: number | null) => Promise<unknown>) | undefined;
}

/** How well each task is known. */
export interface TaskScores {
  readonly accuracies: readonly number[];
  /** Mean loss of a token, float32, where the data is text; null elsewhere. */
  readonly losses: readonly number[] | null;
}

/**
 * Loss and share of right predictions of the next token on each task's evaluation examples. (Losses are rounded to float32, in which
 * checkpoints keep them.)
 */
export async function tokenScores(session: MeasureSession, { scenario, stream }: ContinualPlan): Promise<TaskScores> {
  const split = session.config.train.eval_split;
  const [accuracies, losses]: [number[], number[]] = [[], []];
  const mean = (values: Float32Array) => values.reduce((sum, value) => sum + value, 0) / values.length;
  for (const task of scenario.tasks.keys()) {
    const [from, to] = [stream.evaluation[task] as number, stream.evaluation[task + 1] as number];
    const examples = Int32Array.from({ length: to - from }, (_, i) => from + i);
    const rows = await session.predict({ split, examples, metrics: [TOKEN_LOSS, TOKENS_RIGHT] });
    accuracies.push(mean(rows[TOKENS_RIGHT] as Float32Array) / (scenario.shape.tokens as number));
    losses.push(Math.fround(mean(rows[TOKEN_LOSS] as Float32Array)));
  }
  return { accuracies, losses };
}

/**
 * Accuracy on each task's evaluation examples, all of them, once `learnt` tasks have been learnt. Where the task is known only
 * its own outputs are looked at, else those of all tasks so far, or for a task that has not come yet, of all that there are. (So too
 * where nobody knows which tasks there have been.)
 */
export async function accuracyOn(
  session: MeasureSession,
  { scenario, stream, strategy }: ContinualPlan,
  { learnt, kept, show }: AccuracyOptions,
): Promise<number[]> {
  const split = session.config.train.eval_split;
  const { outputsOf, taskKnown, outputs: width, gradual } = scenario.shape;
  const labels = view(stream.data.parts[split].labels as NonNullable<typeof stream.data.parts.test.labels>, 'int32');
  const accuracies: number[] = [];
  const classify = learnt > 0 ? strategy.classify : undefined;
  const shown = learnt > 0 ? show : undefined;
  for (const task of scenario.tasks.keys()) {
    const [from, to] = [stream.evaluation[task] as number, stream.evaluation[task + 1] as number];
    const examples = Int32Array.from({ length: to - from }, (_, i) => from + i);
    await shown?.(task);
    const rows = await session.predict({ split, examples, metrics: [OUTPUTS, ...(classify?.metrics ?? [])] });
    const seen = task < learnt && gradual === 0 ? outputsOf.slice(0, learnt) : outputsOf;
    const allowed = taskKnown ? (outputsOf[task] as readonly number[]) : [...new Set(seen.flat())];
    const answers = classify
      ? classify.answers(rows, allowed, kept)
      : largest(rows[OUTPUTS] as Float32Array, width, allowed);
    accuracies.push(
      answers.reduce((right, answer, i) => right + (answer === labels[from + i] ? 1 : 0), 0) / answers.length,
    );
  }
  await shown?.(null);
  return accuracies;
}

/** The allowed output with the largest value, row by row; the first of equal ones. */
export function largest(values: Float32Array, width: number, allowed: readonly number[]): Int32Array {
  return Int32Array.from({ length: values.length / width }, (_, row) => {
    let best = allowed[0] as number;
    for (const output of allowed)
      if ((values[row * width + output] as number) > (values[row * width + best] as number)) best = output;
    return best;
  });
}
