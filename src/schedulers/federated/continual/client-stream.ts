import { type Dataset, type PreparedData, view } from '../../../data/index.ts';
import { Phases } from '../../../optim/index.ts';
import { createRng } from '../../../tensor/index.ts';
import type { BuiltStream } from '../../continual/built-stream.ts';
import { composeTasks } from '../../continual/compose.ts';
import type { Scenario, Task } from '../../continual/scenario.ts';
import { continualStrategy } from '../../continual/strategy.ts';
import { StreamBuilder } from '../../continual/stream-builder.ts';
import type { ContinualJob } from './job.ts';

/** What a client's stream is made of. */
export interface ClientStreamOptions {
  readonly job: ContinualJob;
  readonly scenario: Scenario;
  readonly dataset: Dataset;
  readonly data: PreparedData;
  /** Examples of a step. */
  readonly batch: number;
  readonly seed: number;
  readonly client: number;
  /** The client's own examples of each task. */
  readonly examples: readonly Int32Array[];
  /** Fits that it has made, or is to make, in each task. */
  readonly fits: ArrayLike<number>;
  readonly task: number;
}

/** A strategy gave a client no steps in a task. */
export class NoSteps extends RangeError {}

/** All steps of a client up to a task, as if it learnt by itself from the tasks that it took part in. */
export interface ClientStream {
  readonly built: BuiltStream;
  readonly scenario: Scenario;
  /** Number of the task among the client's own. */
  readonly task: number;
  /** The task's steps: first one, end of those that train, end of those that only look. */
  readonly first: number;
  readonly trained: number;
  readonly end: number;
}

/**
 * Composes a client's stream anew: which examples are kept, say, is a function of the seed and of what the client has trained
 * on, so that no buffer has to be stored. More fits of the task only add steps: those before stay as they are.
 */
export function clientStream(options: ClientStreamOptions): ClientStream {
  const { job, dataset, data, batch, client } = options;
  const strategy = continualStrategy(job.strategy);
  const { scenario, task } = ownScenario(options);
  const targets = strategy.targets?.(job.config, job.shape) ?? [];
  const builder = new StreamBuilder(scenario, dataset, batch, targets);
  const seed = createRng(options.seed)
    .fork('continual client', client)
    .integer(2 ** 31);
  const given = { scenario, dataset, builder, epochs: job.epochs, global: batch, seed };
  if (strategy.compose) strategy.compose(given, job.config);
  else composeTasks(given, { fresh: batch });
  // (A strategy that mixes all tasks has nothing to train on before the last one.)
  if (builder.steps === 0) throw new NoSteps('it does not learn one task after another');
  const built = builder.build(data, dataset, job.split);
  const [first, end] = [built.ends[task - 1] ?? 0, built.ends[task] as number];
  const phases = new Phases(built.phases);
  let trained = end;
  while (trained > first && phases.at(trained - 1) === 'observe') trained -= 1;
  return { built, scenario, task, first, trained, end };
}

/** Earlier tasks that the client took part in, the one of now, and those to come, of which it has seen nothing. */
function ownScenario({ job, scenario, examples, fits, task: now }: ClientStreamOptions) {
  const none = new Int32Array(0);
  const kept = scenario.tasks.filter(({ index }) => index >= now || (fits[index] as number) > 0);
  const tasks = kept.map((task, index): Task => {
    const seen = task.index <= now;
    return {
      ...task,
      index,
      epochs: seen ? (fits[task.index] as number) * job.epochs : 0,
      examples: { train: seen ? (examples[task.index] as Int32Array) : none, evaluation: none },
    };
  });
  const shape = { ...scenario.shape, tasks: tasks.length, outputsOf: tasks.map(({ outputs }) => outputs) };
  return { scenario: { ...scenario, shape, tasks }, task: kept.findIndex(({ index }) => index === now) };
}

/** The positions of a step; only the first one where the others are copies of it, whose mean is the same for less arithmetic. */
export function withoutCopies({ built }: ClientStream, positions: Int32Array): Int32Array {
  const { examples, labels, views, targets } = built.data.parts.train;
  const columns = Object.values(targets).map(({ values, rows }) => rows ?? values);
  const all = [examples, labels, views, ...columns].flatMap((array) => (array ? [view(array, array.dtype)] : []));
  const alike = all.every((values) =>
    positions.every((position) => values[position] === values[positions[0] as number]),
  );
  return alike ? positions.slice(0, 1) : positions;
}
