import { type Dataset, type PreparedStream, type StreamValues, view } from '../../../data/index.ts';
import type { Model } from '../../../modules/index.ts';
import type { HostTensor } from '../../../tensor/index.ts';
import { FEATURES, OUTPUTS } from '../../continual/loss.ts';
import type { ContinualStrategy, TaskEnd } from '../../continual/strategy.ts';
import { inputSize } from '../../continual/stream-builder.ts';
import { partOf, type VectorLayout } from '../../local/index.ts';
import type { KeptVectors } from '../client-store.ts';
import type { ClientSlots } from './client-slots.ts';
import type { ClientStream } from './client-stream.ts';
import type { ContinualJob } from './job.ts';

/** What a client keeps, where more can be put. */
export type KeptWriter = Record<string, Float32Array>;

/** Prefixes of what strategies keep of a client: rows of their targets, examples that were made, tensors. */
const FILLED = 'filled/';
const MADE = 'made';
const TENSOR = 'kept/';

/** What a client's strategy is given at the end of a task. */
export interface TaskEndOptions {
  readonly strategy: ContinualStrategy;
  readonly job: ContinualJob;
  readonly stream: ClientStream;
  /** Examples of a step. */
  readonly batch: number;
  readonly dataset: Dataset;
  readonly model: Model;
  readonly slots: ClientSlots;
  readonly kept: KeptWriter;
  /** The common model's. */
  readonly params: Float32Array;
  /** One of the model's outputs, by number, for positions of the stream. */
  predict(positions: Int32Array, output: number): Promise<Float32Array>;
}

/** What a strategy can do between tasks where the model is everybody's: look at it, and change what the client keeps. */
export function taskEndOf(options: TaskEndOptions): TaskEnd {
  const { strategy, job, stream, batch, dataset, slots, kept, params } = options;
  const { built } = stream;
  const transitions = strategy.transitions?.(job.config, job.shape) ?? {};
  const each = <T>(of: (path: string, index: number, place: VectorLayout['places'][number]) => T): [string, T][] =>
    slots.layout.places.map((place, i) => [place.path, of(place.path, i, place)]);
  const refuse = (what: string): never => {
    throw new Error(
      `scheduler.continual.strategy ${strategy.name} ${what} at the end of a task, but the parameters belong to all clients: ` +
        'use a strategy that changes only what it keeps besides them (ewc, si, er)',
    );
  };
  return {
    task: stream.task,
    scenario: stream.scenario,
    dataset,
    model: options.model,
    transition: async (name, args) => {
      const transition = transitions[name];
      if (!transition) throw new Error(`the strategy ${strategy.name} has no transition "${name}"`);
      const answers = each((_, i, place) => {
        const before = partOf(params, place);
        const value = before.slice();
        const answer = transition({ info: slots.infos[i] as never, value, slots: slots.ofParam(i, kept) }, args);
        if (value.some((number, at) => number !== before[at])) refuse('changes parameters');
        return answer;
      });
      return Object.fromEntries(answers.filter(([, answer]) => answer !== undefined));
    },
    parameters: async () => Object.fromEntries(each((_, __, place) => partOf(params, place).slice())),
    setParameters: async () => refuse('gives parameters other values'),
    predict: async (positions, metrics = [OUTPUTS]) => {
      const found: Record<string, Float32Array> = {};
      for (const name of metrics) {
        // (`withFeatures` shows features behind the logits.)
        const output = [OUTPUTS, FEATURES].indexOf(name);
        if (output < 0) throw new Error(`clients can look up their model's outputs and features, not "${name}"`);
        found[name] = await options.predict(positions, output);
      }
      return found;
    },
    examples: view(built.data.parts.train.examples, 'int32'),
    rows: (target) => {
      const given = built.data.parts.train.targets[target]?.rows;
      if (!given) throw new Error(`the strategy ${strategy.name} has no target "${target}" with rows`);
      return view(given, 'int32');
    },
    positions: (task) => ({
      from: (built.ends[task - 1] ?? 0) * batch,
      to: (built.ends[task] as number) * batch,
    }),
    fill: (target, firstRow, values) => {
      const given = built.data.parts.train.targets[target] as StreamValues;
      const size = built.data.targets.find(({ name }) => name === target)?.shape.reduce((a, b) => a * b, 1) ?? 1;
      write(kept, FILLED + target, view(given.values, 'float32').length, values, firstRow * size);
    },
    make: (firstExample, inputs) => {
      const { made } = built.data;
      if (!made) throw new Error(`the strategy ${strategy.name} has not reserved any examples`);
      const first = firstExample - dataset.split('train').examples;
      write(kept, MADE, view(made, 'float32').length, inputs, first * inputSize(dataset));
    },
    keep: (name, { dtype, shape, data }) => {
      if (dtype !== 'float32') throw new Error(`clients keep tensors of float32, not "${name}" of ${dtype}`);
      // Its shape goes first, since what clients keep are vectors.
      kept[TENSOR + name] = Float32Array.of(shape.length, ...shape, ...(data as Float32Array));
    },
    kept: (name): HostTensor | null => {
      const vector = kept[TENSOR + name];
      if (!vector) return null;
      const rank = vector[0] as number;
      return { dtype: 'float32', shape: [...vector.subarray(1, rank + 1)], data: vector.slice(rank + 1) };
    },
    drift: () => {
      throw new Error(`the strategy ${strategy.name} goes by how modules change, which clients do not measure`);
    },
  };
}

/** A client's stream with what its strategy has filled in so far. It is the client's own, made for the moment. */
export function filledIn(data: PreparedStream, kept: KeptVectors): PreparedStream {
  const put = (into: Float32Array, values: Float32Array | undefined) => {
    if (values) into.set(values.subarray(0, into.length));
  };
  for (const { name, dtype } of data.targets) {
    const given = data.parts.train.targets[name];
    if (dtype === 'float32' && given) put(view(given.values, 'float32'), kept[FILLED + name]);
  }
  if (data.made) put(view(data.made, 'float32'), kept[MADE]);
  return data;
}

/** Puts values into a vector that is kept, which grows with the stream. */
function write(kept: KeptWriter, name: string, length: number, values: Float32Array, at: number): void {
  const before = kept[name];
  const vector = new Float32Array(Math.max(length, before?.length ?? 0));
  if (before) vector.set(before);
  vector.set(values, at);
  kept[name] = vector;
}
