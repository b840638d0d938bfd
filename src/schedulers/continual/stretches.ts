import type { Stretch } from '../../coordinator/index.ts';
import type { PhaseRun } from '../../optim/index.ts';

/**
 * The tasks of a stream, each in a part that trains and, for strategies that look at a task once it is learnt, one that observes.
 * Where steps of both kinds take turns, all count as training.
 * @param ends completed steps at the end of each task
 */
export function stretchesOf(ends: readonly number[], phases: readonly PhaseRun[]): Stretch[] {
  const found: Stretch[] = [];
  const add = (task: number, until: number, observes: boolean) => {
    const text = `task ${task + 1}/${ends.length}`;
    const last = found.at(-1);
    if (last?.text === text && (last.observes ?? false) === observes) found.pop();
    if (until > (found.at(-1)?.until ?? 0)) found.push({ until, text, ...(observes ? { observes } : {}) });
  };
  let [task, at] = [0, 0];
  for (const { steps, cycle } of phases) {
    const end = at + steps;
    const observes = cycle.every((phase) => phase === 'observe');
    for (; at < end; at = found.at(-1)?.until ?? end) {
      while (task < ends.length - 1 && at >= (ends[task] as number)) task += 1;
      add(task, task < ends.length - 1 ? Math.min(end, ends[task] as number) : end, observes);
    }
  }
  return found;
}
