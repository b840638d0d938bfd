import type { MeasureSession } from '../../coordinator/index.ts';
import { type StreamValues, view } from '../../data/index.ts';
import { OUTPUTS } from './loss.ts';
import { READ, WRITE } from './near-data.ts';
import type { ContinualPlan } from './scheduler.ts';
import type { TaskEnd } from './strategy.ts';
import { inputSize } from './stream-builder.ts';
import type { TaskState } from './task-state.ts';

/** What a strategy is given where a task begins, pauses, ends or is shown: the run as it is there. */
export function taskEnd(session: MeasureSession, plan: ContinualPlan, task: number, state: TaskState): TaskEnd {
  const { scenario, stream, strategy } = plan;
  const { global } = session.config.batch;
  return {
    task,
    scenario,
    dataset: state.dataset,
    model: session.model,
    examples: view(stream.data.parts.train.examples, 'int32'),
    rows: (target) => {
      const { rows } = stream.data.parts.train.targets[target] as StreamValues;
      if (!rows) throw new Error(`target ${target} has a value for each position, not rows that are filled in`);
      return view(rows, 'int32');
    },
    transition: (name, args) => session.transition(name, args),
    parameters: async () => (await session.transition(READ, null)) as Readonly<Record<string, Float32Array>>,
    setParameters: async (values) => {
      await session.transition(WRITE, values);
    },
    predict: (positions, metrics = [OUTPUTS]) => {
      state.spent.predicted[task] = (state.spent.predicted[task] ?? 0) + positions.length;
      return session.predict({ split: 'train', examples: positions, metrics });
    },
    positions: (index) => ({
      from: (index === 0 ? 0 : (stream.ends[index - 1] as number)) * global,
      to: (stream.ends[index] as number) * global,
    }),
    fill: (target, firstRow, values) => {
      const given = stream.data.parts.train.targets[target] as StreamValues;
      const all = view(given.values, 'float32');
      const size = stream.data.targets.find(({ name }) => name === target)?.shape.reduce((a, b) => a * b, 1) ?? 1;
      all.set(values, firstRow * size);
      state.filled.add(target);
    },
    make: (firstExample, inputs) => {
      const { made } = stream.data;
      if (!made) throw new Error('the strategy has not reserved any examples');
      const first = firstExample - state.dataset.split('train').examples;
      view(made, 'float32').set(inputs, first * inputSize(state.dataset));
      state.made = true;
    },
    keep: (name, tensor) => state.kept.set(name, tensor),
    kept: state.find,
    drift: () => {
      if (!plan.drift)
        throw new Error(`strategy ${strategy.name} goes by how modules drift: set scheduler.drift to true`);
      return state.drift.modules();
    },
  };
}
