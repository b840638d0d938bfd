import type { Dataset, SplitName } from '../../data/index.ts';
import { type Engine, type Executable, tf } from '../../engine/index.ts';
import { evaluationKey, type Model, type TaskInfo } from '../../modules/index.ts';
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
  readonly #executables = new Map<number, Promise<Executable>>();

  constructor(options: EvaluatorOptions) {
    this.#options = options;
  }

  /** Sums over the examples given; an empty list gives zeros. */
  async evaluate(at: LocalState, split: SplitName, examples: Int32Array): Promise<EvaluateReport> {
    const { engine, dataset } = this.#options;
    const source = dataset.split(split);
    let loss = 0;
    let correct: number | null = this.#classifies ? 0 : null;
    for (let start = 0; start < examples.length; start += BATCH) {
      const indices = examples.subarray(start, start + BATCH);
      const executable = await this.#compiled(indices.length);
      const { inputs, targets } = source.batch(indices);
      const outputs = await executable.run([
        ...at.params,
        ...at.state,
        ...[evaluationKey(), ...inputs, ...targets].map((tensor) => engine.upload(tensor)),
      ]);
      const [mean, right] = await Promise.all(outputs.map((output) => engine.download(output)));
      loss += Number(mean?.data[0]) * indices.length;
      if (correct !== null) correct += Number(right?.data[0]);
    }
    return { examples: examples.length, loss, correct };
  }

  /** Whether there is one class to tell for each example. */
  get #classifies(): boolean {
    const { info } = this.#options;
    const [target] = info.targets;
    return info.classes !== undefined && target?.dtype === 'int32' && target.shape.length === 0;
  }

  #compiled(batch: number): Promise<Executable> {
    let executable = this.#executables.get(batch);
    if (!executable) {
      executable = this.#compile(batch);
      this.#executables.set(batch, executable);
    }
    return executable;
  }

  #compile(batch: number): Promise<Executable> {
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
        const loss = made.loss(outputs, given);
        if (!this.#classifies) return [loss];
        const guesses = tf.argMax(outputs[0] as tf.Tensor, -1);
        return [loss, tf.sum(tf.cast(tf.equal(guesses, given[0] as tf.Tensor), 'float32'))];
      },
      [
        ...made.params.map(like),
        ...made.state.map(like),
        { dtype: 'int32', shape: [2] },
        ...made.inputs,
        ...made.targets,
      ],
      { name: `evaluation of ${batch}` },
    );
  }
}
