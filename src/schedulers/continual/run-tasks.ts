import type { RunEvent, Session, TaskCost } from '../../coordinator/index.ts';
import type { Pause } from './built-stream.ts';
import { taskCost } from './costs.ts';
import type { DriftPart } from './drift.ts';
import { evaluateTasks, weightedMean } from './evaluate-tasks.ts';
import { continualMetrics } from './metrics.ts';
import { READ } from './near-data.ts';
import { saveDrift, saveMatrix } from './save-matrix.ts';
import type { ContinualPlan } from './scheduler.ts';
import { taskEnd } from './task-end.ts';
import { TaskState } from './task-state.ts';

/**
 * Runs all tasks: trains, lets the strategy do what it does at the end of each, evaluates all tasks, keeps a checkpoint. An
 * interrupted run goes on where its checkpoint is, in the middle of a task too.
 */
export async function* runTasks(session: Session, plan: ContinualPlan): AsyncGenerator<RunEvent> {
  const { scenario, stream, strategy, strategyConfig } = plan;
  const tasks = scenario.tasks.length;
  const { checkpoint_every } = session.config.train;
  const state = await TaskState.restore(session, plan);
  const checkpoint = () => session.checkpoint(state.tensors());
  const drift = async (span: { task: number; part: DriftPart } | null): Promise<void> => {
    if (!plan.drift || !session.transitions) return;
    const values = (await session.transition(READ, null)) as Readonly<Record<string, Float32Array>>;
    if (span) state.drift.end(span.task, span.part, values);
    else state.drift.begin(values);
  };
  const evaluate = (learnt: number) => evaluateTasks(session, plan, learnt, state);
  if (state.rows.length === 0 && !session.signal.aborted) state.add(await evaluate(0));
  let since = performance.now();
  const lap = (task: number): void => {
    const now = performance.now();
    state.spent.seconds[task] = (state.spent.seconds[task] ?? 0) + (now - since) / 1000;
    since = now;
  };
  for (let task = state.rows.length - 1; task < tasks; task++) {
    since = performance.now();
    const end = stream.ends[task] as number;
    const begins = session.position === (stream.ends[task - 1] ?? 0) && !session.signal.aborted;
    if (begins) {
      await strategy.beforeTask?.(taskEnd(session, plan, task, state), strategyConfig);
      await drift(null);
    }
    const { pauses, half } = stopsOf(plan, task);
    const stops = [half, ...pauses.map(({ step }) => step)];
    const pause = async () => {
      const { position } = session;
      // Where the strategy takes steps of another kind, what the task changes has been seen.
      if (position === half || position === pauses[0]?.step)
        await drift({ task, part: position > half ? 'within' : 'between' });
      for (const { step, name } of pauses)
        if (step === position) await strategy.atPause?.(taskEnd(session, plan, task, state), name, strategyConfig);
      state.paused = position;
    };
    while (session.position < end && !session.signal.aborted) {
      if (stops.includes(session.position) && state.paused !== session.position) await pause();
      const due = checkpoint_every > 0 ? (Math.floor(session.position / checkpoint_every) + 1) * checkpoint_every : end;
      yield* session.steps(Math.min(end, due, ...stops.filter((stop) => stop > session.position)));
      lap(task);
      if (session.position === due && due < end) await checkpoint();
    }
    if (session.signal.aborted) break;
    if (pauses.length === 0) await drift({ task, part: 'within' });
    const before = performance.now();
    await strategy.afterTask?.(taskEnd(session, plan, task, state), strategyConfig);
    lap(task);
    state.costs.push(taskCost(session, plan, { task, spent: state.spent, kept: state.kept }));
    // Where tasks are learnt together they are known together.
    const row = await evaluate(stream.ends.filter((done) => done <= session.position).length);
    state.add(row);
    const losses = row.losses ? { loss_matrix: state.losses.slice(1) } : {};
    const [untrained, ...matrix] = state.rows;
    const metrics = continualMetrics(matrix, untrained as readonly number[], plan.reference);
    session.report({
      ...metrics,
      ...losses,
      ...(row.losses ? { val_loss: weightedMean(row.losses, plan) } : {}),
      accuracy: metrics.average_accuracy,
      accuracy_matrix: matrix,
      tasks: state.costs,
    });
    await saveMatrix(session.folder, matrix, {
      untrained: untrained as readonly number[],
      ...(plan.reference ? { reference: plan.reference } : {}),
      ...(row.losses ? { untrained_losses: state.losses[0] } : {}),
      ...metrics,
      ...losses,
      tasks: state.costs,
    });
    if (plan.drift) await saveDrift(session.folder, { tasks: task + 1, modules: state.drift.modules() });
    yield {
      type: 'task',
      step: session.position,
      task: task + 1,
      tasks,
      accuracies: row.accuracies,
      ...(row.losses ? { losses: row.losses } : {}),
      average: metrics.average_accuracy,
      cost: state.costs[task] as TaskCost,
      ms: performance.now() - before,
    };
    await checkpoint();
  }
  if (session.saved !== session.position) await checkpoint();
}

/** Steps in a task before which something happens: those that the strategy asked for, and the middle of it. */
function stopsOf(
  { stream }: ContinualPlan,
  task: number,
): { readonly pauses: readonly Pause[]; readonly half: number } {
  const [from, to] = [stream.ends[task - 1] ?? 0, stream.ends[task] as number];
  const pauses = stream.pauses.filter(({ step }) => step >= from && step < to);
  return { pauses, half: Math.ceil((from + Math.min(to, ...pauses.map(({ step }) => step))) / 2) };
}
