import type { Dataset, Split, SplitName } from '../../data/index.ts';
import { type Engine, type Executable, tf } from '../../engine/index.ts';
import { evaluationKey, type Model, type TaskInfo } from '../../modules/index.ts';
import { float32, type HostTensor } from '../../tensor/index.ts';
import { maskRow } from '../continual/output-masks.ts';
import { type LocalState, type LocalTrainer, modelFunction } from '../local/index.ts';
import type { EvaluateReport } from './fit-task.ts';

/** Examples that are looked at in one run. */
const BATCH = 250;

/** What an evaluator is made of. */
export interface EvaluatorOptions {
  readonly engine: Engine;
  readonly model: Model;
  readonly info: TaskInfo;
  readonly dataset: Dataset;
  /** Tells the layouts of vectors. */
  readonly layouts: Pick<LocalTrainer, 'layout' | 'stateLayout'>;
}

/** Measures parameters on examples: the mean loss, and for classes the accuracy. Modules are in evaluation mode. */
export class Evaluator {
  readonly #options: EvaluatorOptions;
  readonly #executables = new Map<string, Promise<Executable>>();

  constructor(options: EvaluatorOptions) {
    this.#options = options;
  }

  /** Sums over the examples given; an empty list gives zeros. `allowed`: outputs that may be the answer; default all. */
  async evaluate(
    at: LocalState,
    split: SplitName | Split,
    examples: Int32Array,
    allowed?: readonly number[],
  ): Promise<EvaluateReport> {
    const source = typeof split === 'string' ? this.#options.dataset.split(split) : split;
    let loss = 0;
    let correct: number | null = this.#classifies ? 0 : null;
    for (const indices of pieces(examples)) {
      const [mean, right] = await this.#run(at, source, indices, 'loss', allowed);
      loss += Number(mean?.data[0]) * indices.length;
      if (correct !== null) correct += Number(right?.data[0]);
    }
    return { examples: examples.length, loss, correct };
  }

  /** What the model returns for each example, one after another: the first of its outputs, or another one by number. */
  async outputs(at: LocalState, split: SplitName | Split, examples: Int32Array, output = 0): Promise<Float32Array> {
    const source = typeof split === 'string' ? this.#options.dataset.split(split) : split;
    const parts: Float32Array[] = [];
    for (const indices of pieces(examples))
      parts.push((await this.#run(at, source, indices, 'outputs'))[output]?.data.slice() as Float32Array);
    const all = new Float32Array(parts.reduce((total, { length }) => total + length, 0));
    let next = 0;
    for (const part of parts) {
      all.set(part, next);
      next += part.length;
    }
    return all;
  }

  /** Mean loss and, for classes, how many were right; or the outputs. */
  async #run(
    at: LocalState,
    source: Split,
    indices: Int32Array,
    what: What,
    allowed?: readonly number[],
  ): Promise<HostTensor[]> {
    const { engine, info } = this.#options;
    const executable = await this.#compiled(indices.length, allowed ? 'loss of some outputs' : what);
    const { inputs, targets } = source.batch(indices);
    const mask = allowed ? [float32(maskRow(allowed, info.classes ?? 0), [info.classes ?? 0])] : [];
    const outputs = await executable.run([
      ...at.params,
      ...at.state,
      ...[evaluationKey(), ...inputs, ...targets, ...mask].map((tensor) => engine.upload(tensor)),
    ]);
    return Promise.all(outputs.map((output) => engine.download(output)));
  }

  /** Whether there is one class to tell for each example. */
  get #classifies(): boolean {
    const { info } = this.#options;
    const [target] = info.targets;
    return info.classes !== undefined && target?.dtype === 'int32' && target.shape.length === 0;
  }

  #compiled(batch: number, what: What): Promise<Executable> {
    const name = `${what} of ${batch}`;
    const executable = this.#executables.get(name) ?? this.#compile(batch, what);
    this.#executables.set(name, executable);
    return executable;
  }

  #compile(batch: number, what: What): Promise<Executable> {
    const { engine, model, info } = this.#options;
    const made = modelFunction(model, info, batch, { training: false });
    const like = ({ spec }: { readonly spec: { readonly shape: readonly number[] } }) =>
      ({ dtype: 'float32', shape: spec.shape }) as const;
    return engine.compile(
      (...given) => {
        const params = new Map(made.params.map(({ path }) => [path, given.shift() as tf.Tensor]));
        const state = new Map(made.state.map(({ path }) => [path, given.shift() as tf.Tensor]));
        const key = given.shift() as tf.Tensor;
        const inputs = given.splice(0, made.inputs.length);
        const { outputs } = made.forward({ params, state, key, inputs });
        const output = outputs[0] as tf.Tensor;
        if (what === 'outputs') return outputs;
        const targets = given.splice(0, made.targets.length);
        const loss = made.loss(outputs, targets);
        if (!this.#classifies) return [loss];
        const [mask] = given;
        const right = tf.equal(tf.argMax(mask ? tf.add(output, mask) : output, -1), targets[0] as tf.Tensor);
        return [loss, tf.sum(tf.cast(right, 'float32'))];
      },
      [
        ...made.params.map(like),
        ...made.state.map(like),
        { dtype: 'int32', shape: [2] },
        ...made.inputs,
        ...made.targets,
        ...(what === 'loss of some outputs' ? [{ dtype: 'float32', shape: [info.classes ?? 0] } as const] : []),
      ],
      { name: `evaluation: ${what} of ${batch}` },
    );
  }
}

type What = 'loss' | 'loss of some outputs' | 'outputs';

/** Cuts examples into runs of a few lengths, so that few executables serve clients of any size. */
function* pieces(examples: Int32Array): Generator<Int32Array> {
  let start = 0;
  while (start < examples.length) {
    const left = examples.length - start;
    const size = left >= BATCH ? BATCH : 2 ** Math.floor(Math.log2(left));
    yield examples.subarray(start, start + size);
    start += size;
  }
}
