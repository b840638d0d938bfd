import type { Session, TaskCost } from '../../coordinator/index.ts';
import { type Dataset, view } from '../../data/index.ts';
import { modelParams } from '../../modules/index.ts';
import { type HostTensor, sizeOf } from '../../tensor/index.ts';
import type { ContinualPlan } from './scheduler.ts';

/** What only shows while a run goes on: by task. */
export interface Spent {
  /** Seconds from its first step to what the strategy does at its end, over interruptions; evaluations are not counted. */
  readonly seconds: number[];
  /** Examples that the strategy had the model predict. */
  readonly predicted: number[];
}

/** Bytes of an example as the model is given it: inputs and the dataset's own targets. */
export function exampleBytes({ info, modelInfo }: Pick<Dataset, 'info' | 'modelInfo'>): number {
  const { inputs, targets } = modelInfo ?? info;
  return [...inputs, ...targets].reduce((sum, { shape }) => sum + 4 * sizeOf(shape), 0);
}

/**
 * What a task has cost, and the memory that is needed to go on after it: floating-point operations of the examples that counted
 * (observing steps and predictions too), and bytes of whatever stays.
 */
export function taskCost(
  session: Pick<Session, 'model' | 'flops'>,
  plan: ContinualPlan,
  now: { readonly task: number; readonly spent: Spent; readonly kept: ReadonlyMap<string, HostTensor> },
): TaskCost {
  const { stream, strategy, strategyConfig, scenario, dataset } = plan;
  const { task, spent, kept } = now;
  const { steps, observed, examples, held } = stream.costs[task] as (typeof stream.costs)[number];
  const { forward, backward } = session.flops;
  const predicted = spent.predicted[task] ?? 0;
  const params = modelParams(session.model).map(({ path, spec: { shape, decay } }) => ({ path, shape, decay }));
  const rule = strategy.rule?.(strategyConfig, scenario.shape, plan.course);
  const states = Object.values(strategy.loss?.(strategyConfig, scenario.shape).state ?? {});
  const rows = stream.data.targets.filter(({ shape, name }) => shape.length > 0 && stream.own.includes(name));
  const parameters = params.reduce((sum, { shape }) => sum + 4 * sizeOf(shape), 0);
  const slots = params.reduce((sum, info) => sum + (rule?.slots?.(info).length ?? 0) * 4 * sizeOf(info.shape), 0);
  const tensors =
    [...kept.values()].reduce((sum, { data }) => sum + data.byteLength, 0) +
    states.reduce((sum, { shape }) => sum + 4 * sizeOf(shape), 0) +
    rows.reduce((sum, { name }) => sum + filledBytes(plan, name), 0);
  const buffer = held * exampleBytes(dataset);
  return {
    steps,
    observed_steps: observed,
    examples,
    predicted_examples: predicted,
    training_flops: examples * (forward + backward) + predicted * forward,
    wall_s: Math.round((spent.seconds[task] ?? 0) * 1000) / 1000,
    memory: { parameters, slots, examples: buffer, tensors, total: parameters + slots + buffer + tensors },
  };
}

function filledBytes({ stream }: ContinualPlan, name: string): number {
  const values = stream.data.parts.train.targets[name]?.values;
  return values ? view(values, 'float32').byteLength : 0;
}
