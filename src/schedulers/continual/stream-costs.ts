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
  readonly tasks: Int32Array;
  readonly examples: Int32Array;
  readonly views: Int32Array;
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
    let counting = 0;
    for (let at = from * global; at < end * global; at++) if ((tasks[at] as number) >= 0) counting++;
    const observed = phases.slice(from, end).filter((phase) => phase === 'observe').length;
    return { steps: end - from, observed, examples: counting, held: kept[task] as number };
  });
}

/** Examples of each task and those before that later steps see again; after the last one, those that it had. */
function goneBackTo({ global, ends, tasks, examples, views }: CountedStream): number[] {
  // From the back, so that where an example is met first is where it is seen last.
  const met = new Map<number, Uint8Array>();
  const limit = 1 + examples.reduce((most, example) => Math.max(most, example), 0);
  const counts = ends.map(() => 0);
  for (let position = tasks.length - 1; position >= 0; position--) {
    const task = tasks[position] as number;
    if (task < 0) continue;
    const [view, example] = [views[position] as number, examples[position] as number];
    const seen = met.get(view) ?? new Uint8Array(limit);
    met.set(view, seen);
    if (seen[example]) continue;
    seen[example] = 1;
    for (let end = task; end < ends.length && position >= (ends[end] as number) * global; end++)
      counts[end] = (counts[end] as number) + 1;
  }
  return counts.map((count, task) => (task === counts.length - 1 ? (counts[task - 1] ?? 0) : count));
}
