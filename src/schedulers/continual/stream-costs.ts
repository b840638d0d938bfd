import type { StepPhase } from '../../optim/index.ts';

/** What a task's steps come to. */
export interface StreamCost {
  /** Steps, observing ones included, and how many of these there are. */
  readonly steps: number;
  readonly observed: number;
  /** Examples of these steps, without those that only fill a batch. */
  readonly examples: number;
  /** Examples that are kept when the task is over. */
  readonly held: number;
}

/** A composed stream, position by position. */
export interface CountedStream {
  /** Examples of a step. */
  readonly global: number;
  /** Completed steps at the end of each task. */
  readonly ends: readonly number[];
  readonly phases: readonly StepPhase[];
  /** Task of each entry; -1 where it only fills a batch. */
  readonly tasks: readonly number[];
  readonly examples: readonly number[];
  readonly views: readonly number[];
}

/**
 * What each task's steps come to.
 * @param held examples that buffers held at the end of each task; null where nothing is known of buffers, so that what later steps go
 * back to counts as kept
 */
export function streamCosts(stream: CountedStream, held: readonly number[] | null): StreamCost[] {
  const { ends, global, phases, tasks } = stream;
  const kept = held ?? goneBackTo(stream);
  return ends.map((end, task) => {
    const from = ends[task - 1] ?? 0;
    const counting = tasks.slice(from * global, end * global).filter((of) => of >= 0);
    const observed = phases.slice(from, end).filter((phase) => phase === 'observe').length;
    return { steps: end - from, observed, examples: counting.length, held: kept[task] as number };
  });
}

/** Examples of each task and those before that later steps see again; after the last one, those that it had. */
function goneBackTo({ global, ends, tasks, examples, views }: CountedStream): number[] {
  const last = new Map<string, { task: number; at: number }>();
  for (const [position, task] of tasks.entries())
    if (task >= 0) last.set(`${examples[position]} ${views[position]}`, { task, at: position });
  const seen = [...last.values()];
  const counts = ends.map((end, task) => seen.filter(({ task: of, at }) => of <= task && at >= end * global).length);
  return counts.map((count, task) => (task === counts.length - 1 ? (counts[task - 1] ?? 0) : count));
}
