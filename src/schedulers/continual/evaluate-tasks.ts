import type { Measured, MeasureSession } from '../../coordinator/index.ts';
import { accuracyOn, type TaskScores, tokenScores } from './accuracy.ts';
import type { ContinualPlan } from './scheduler.ts';
import { taskEnd } from './task-end.ts';
import { TaskState } from './task-state.ts';

/** How well each task is known once `learnt` tasks have been learnt: each as the strategy shows and classifies it. */
export async function evaluateTasks(
  session: MeasureSession,
  plan: ContinualPlan,
  learnt: number,
  state: TaskState,
): Promise<TaskScores> {
  const { scenario, strategy, strategyConfig } = plan;
  if (scenario.shape.tokens !== null) return tokenScores(session, plan);
  const show =
    strategy.showTask && scenario.shape.taskKnown
      ? async (task: number | null) =>
          strategy.showTask?.(taskEnd(session, plan, task ?? 0, state), task, strategyConfig)
      : undefined;
  return { accuracies: await accuracyOn(session, plan, { learnt, kept: state.find, show }), losses: null };
}

/** Measures a checkpoint of a sequence of tasks, for `plexus eval`: tasks that have not been learnt to their end are not in the mean. */
export async function measureTasks(session: MeasureSession, plan: ContinualPlan): Promise<Measured> {
  const state = await TaskState.restore(session, plan);
  const learnt = plan.stream.ends.filter((end) => end <= session.position).length;
  const { accuracies, losses } = await evaluateTasks(session, plan, learnt, state);
  return {
    loss: losses ? weightedMean(losses, plan) : null,
    metrics: {
      ...(learnt > 0
        ? { average_accuracy: accuracies.slice(0, learnt).reduce((sum, share) => sum + share, 0) / learnt }
        : {}),
      task_accuracy: accuracies,
      ...(losses ? { task_loss: losses } : {}),
      tasks_learnt: learnt,
    },
  };
}

/** Mean loss over the evaluation examples of all tasks. */
export function weightedMean(losses: readonly number[], { stream: { evaluation } }: ContinualPlan): number {
  const sizes = losses.map((_, task) => (evaluation[task + 1] as number) - (evaluation[task] as number));
  const sum = losses.reduce((total, loss, task) => total + loss * (sizes[task] as number), 0);
  return sum / sizes.reduce((total, size) => total + size, 0);
}
