import type { Split } from '../../data/index.ts';
import { type DeviceTensor, type Engine, type Executable, tf } from '../../engine/index.ts';
import type { Model, TaskInfo } from '../../modules/index.ts';
import type { OptimizerPlan } from '../../optim/index.ts';
import { float32, type HostTensor, int32, type TypedArray, zeros } from '../../tensor/index.ts';
import { partOf, type VectorLayout, vectorLayout } from './layout.ts';
import { type ModelFunction, modelFunction } from './model-function.ts';
import type { LocalObjective, ObjectiveTensors } from './objective.ts';
import { paramInfos, stepsFunction } from './step-function.ts';

/** What a local trainer is made of. */
export interface LocalTrainerOptions {
  readonly engine: Engine;
  readonly model: Model;
  readonly info: TaskInfo;
  readonly optimizer: OptimizerPlan;
  readonly objective: LocalObjective;
  /** Steps compiled into one executable at most: a power of two. More saves calls, and takes longer to compile. Default 8. */
  readonly unroll?: number;
}

/** Parameters, optimizer slots and module state as they are after some local steps. */
export interface LocalState {
  readonly params: readonly DeviceTensor[];
  readonly slots: readonly DeviceTensor[];
  readonly state: readonly DeviceTensor[];
}

/** Steps to make. */
export interface LocalSteps {
  readonly split: Split;
  /** Examples of each step's batch. */
  readonly batches: readonly Int32Array[];
  /** Number of the first step: what the learning rate and bias corrections follow. */
  readonly first: number;
  /** Random key of a step, by its number. */
  key(step: number): HostTensor;
}

/** Steps of one batch size that one executable makes. */
interface Chunk {
  readonly size: number;
  readonly start: number;
  readonly steps: number;
}

/**
 * Trains a whole model on one engine: the local training of a client, or of a task. Steps of equal batch size are compiled
 * by several into one executable, which all clients share. Not for use by two fits at a time.
 */
export class LocalTrainer {
  readonly layout: VectorLayout;
  readonly stateLayout: VectorLayout;
  readonly #options: LocalTrainerOptions;
  readonly #functions = new Map<number, ModelFunction>();
  readonly #executables = new Map<string, Promise<Executable>>();
  /** Results of the last two runs: the memory of the one that a run does not begin with takes its outputs. */
  readonly #recent: [LocalState | null, LocalState | null] = [null, null];
  #after: Promise<Executable> | null = null;

  constructor(options: LocalTrainerOptions) {
    this.#options = options;
    const { params, state } = this.#model(1);
    this.layout = vectorLayout(params);
    this.stateLayout = vectorLayout(state);
  }

  /** Puts a vector of parameters, and one of module state, where the engine computes; optimizer slots are zeros. */
  upload(params: Float32Array, state: Float32Array): LocalState {
    const { engine, optimizer } = this.#options;
    const infos = paramInfos(this.#model(1));
    return {
      params: this.tensors(params, this.layout),
      slots: infos.flatMap((info) =>
        optimizer.optimizer.slots(info).map(() => engine.upload(zeros('float32', info.shape))),
      ),
      state: this.tensors(state, this.stateLayout),
    };
  }

  /** A vector's parts as tensors on the engine (copies). */
  tensors(vector: Float32Array, layout: VectorLayout): DeviceTensor[] {
    if (vector.length !== layout.size)
      throw new RangeError(`a vector of ${vector.length} numbers was given for tensors of ${layout.size}`);
    return layout.places.map((place) =>
      this.#options.engine.upload(float32(partOf(vector, place).slice(), place.shape)),
    );
  }

  /** Uploads one of the objective's tensors: a vector in the layout of the parameters, or a tensor of its own shape. */
  objectiveTensors(name: string, values: Float32Array): DeviceTensor[] {
    const declared = (this.#options.objective.tensors ?? []).find((tensor) => tensor.name === name);
    if (!declared) throw new Error(`objective "${this.#options.objective.name}" has no tensor "${name}"`);
    return declared.shape === 'param'
      ? this.tensors(values, this.layout)
      : [this.#options.engine.upload(float32(values.slice(), declared.shape))];
  }

  /**
   * Makes steps from a state, which is not changed. `tensors`: the objective's, by name, as `objectiveTensors` gives them.
   * What is returned is valid until the next
   * call, unless that one begins with it.
   */
  async train(
    from: LocalState,
    { split, batches, first, key }: LocalSteps,
    tensors: ReadonlyMap<string, readonly DeviceTensor[]>,
  ): Promise<{ readonly state: LocalState; readonly losses: Float32Array }> {
    const { engine, optimizer, objective } = this.#options;
    const given = (objective.tensors ?? []).flatMap(({ name }) => {
      const values = tensors.get(name);
      if (!values) throw new Error(`objective "${objective.name}" needs its tensor "${name}", which was not given`);
      return values;
    });
    const losses = new Float32Array(batches.length);
    let current = from;
    for (const { size, start, steps } of chunks(batches, this.#options.unroll ?? 8)) {
      const executable = await this.#steps(size, steps);
      const model = this.#model(size);
      const examples = new Int32Array(steps * size);
      const keys = new Int32Array(steps * 2);
      const scalars: number[] = [];
      for (let i = 0; i < steps; i++) {
        const step = first + start + i;
        examples.set(batches[start + i] as Int32Array, i * size);
        keys.set(key(step).data as Int32Array, i * 2);
        scalars.push(...optimizer.optimizer.scalars(optimizer.lrAt(step), step + 1));
      }
      const batch = split.batch(examples);
      const stacked = [...batch.inputs, ...batch.targets].map((tensor, i) => {
        const { shape } = ([...model.inputs, ...model.targets][i] ?? tensor) as HostTensor;
        return engine.upload({ ...tensor, shape: [steps, ...shape] });
      });
      const inputs = [
        ...current.params,
        ...current.slots,
        ...current.state,
        ...given,
        engine.upload(int32(keys, [steps, 2])),
        engine.upload(float32(Float32Array.from(scalars), [steps, scalars.length / steps])),
        ...stacked,
      ];
      const place = this.#recent[0] === current ? 1 : 0;
      const spare = this.#recent[place];
      const into = spare ? [...spare.params, ...spare.slots, ...spare.state, null] : undefined;
      const outputs = await executable.run(inputs, into);
      const loss = outputs.at(-1) as DeviceTensor;
      losses.set((await engine.download(loss)).data as Float32Array, start);
      const slotsEnd = from.params.length + from.slots.length;
      current = {
        params: outputs.slice(0, from.params.length),
        slots: outputs.slice(from.params.length, slotsEnd),
        state: outputs.slice(slotsEnd, -1),
      };
      this.#recent[place] = current;
    }
    return { state: current, losses };
  }

  /** The objective's `client` tensors after a fit, by name; the layout is the parameters'. */
  async after(
    start: LocalState,
    end: LocalState,
    tensors: ReadonlyMap<string, readonly DeviceTensor[]>,
    steps: number,
    lr: number,
  ): Promise<ReadonlyMap<string, Float32Array>> {
    const { engine, objective } = this.#options;
    if (!objective.after) return new Map();
    this.#after ??= this.#compileAfter();
    const executable = await this.#after;
    const scalar = (value: number) => engine.upload(float32([value], []));
    const outputs = await executable.run([
      ...start.params,
      ...end.params,
      ...(objective.tensors ?? []).flatMap(({ name }) => tensors.get(name) ?? []),
      scalar(steps),
      scalar(lr),
    ]);
    const names = changedTensors(objective).map(({ name }) => name);
    const results = new Map<string, Float32Array>();
    for (const [n, name] of names.entries()) {
      const part = outputs.slice(n * this.layout.places.length, (n + 1) * this.layout.places.length);
      results.set(name, await this.vector(part, this.layout));
    }
    return results;
  }

  /** Reads tensors back into one vector. */
  async vector(
    tensors: readonly DeviceTensor[],
    layout: VectorLayout,
    into: Float32Array = new Float32Array(layout.size),
  ): Promise<Float32Array> {
    for (const [i, place] of layout.places.entries()) {
      const { data } = await this.#options.engine.download(tensors[i] as DeviceTensor);
      into.set(data as TypedArray as Float32Array, place.offset);
    }
    return into;
  }

  #model(batch: number): ModelFunction {
    let made = this.#functions.get(batch);
    if (!made) {
      const { model, info } = this.#options;
      made = modelFunction(model, info, batch, { training: true });
      this.#functions.set(batch, made);
    }
    return made;
  }

  #steps(batch: number, steps: number): Promise<Executable> {
    const name = `${steps} steps of ${batch}`;
    let executable = this.#executables.get(name);
    if (!executable) {
      const { engine, objective, optimizer } = this.#options;
      const { fn, signature } = stepsFunction({
        model: this.#model(batch),
        optimizer: optimizer.optimizer,
        clipNorm: optimizer.clipNorm,
        objective,
        steps,
      });
      executable = engine.compile(fn, signature, { name });
      this.#executables.set(name, executable);
    }
    return executable;
  }

  #compileAfter(): Promise<Executable> {
    const { engine, objective } = this.#options;
    const infos = paramInfos(this.#model(1));
    const kept = objective.tensors ?? [];
    const shapes = infos.map(({ shape }) => shape);
    const like = (shape: readonly number[]) => ({ dtype: 'float32' as const, shape });
    const changed = changedTensors(objective);
    return engine.compile(
      (...given) => {
        const params = given.splice(0, infos.length);
        const ends = given.splice(0, infos.length);
        const values = kept.map(({ name, shape }) => ({
          name,
          shape,
          values: given.splice(0, shape === 'param' ? infos.length : 1),
        }));
        const [steps, lr] = given as [tf.Tensor, tf.Tensor];
        const results = infos.map((info, i) => {
          const own: ObjectiveTensors = Object.fromEntries(
            values.map((tensor) => [tensor.name, tensor.values[tensor.shape === 'param' ? i : 0] as tf.Tensor]),
          );
          const [start, param] = [params[i] as tf.Tensor, ends[i] as tf.Tensor];
          return { own, made: objective.after?.({ start, param, tensors: own, steps, lr }, info) ?? {} };
        });
        return changed.flatMap(({ name }) =>
          results.map(({ own, made }) => tf.add(made[name] ?? (own[name] as tf.Tensor), 0)),
        );
      },
      [
        ...shapes.map(like),
        ...shapes.map(like),
        ...kept.flatMap(({ shape }) => (shape === 'param' ? shapes.map(like) : [like(shape)])),
        like([]),
        like([]),
      ],
      { name: `after ${objective.name}` },
    );
  }
}

/** The objective's tensors that `after` may change. */
function changedTensors(objective: LocalObjective) {
  return (objective.tensors ?? []).filter(({ scope, shape }) => scope === 'client' && shape === 'param');
}

/** Cuts steps into runs: equal sizes together, by powers of two up to `most`. */
export function chunks(batches: readonly Int32Array[], most: number): Chunk[] {
  const found: Chunk[] = [];
  let start = 0;
  while (start < batches.length) {
    const size = (batches[start] as Int32Array).length;
    let same = 1;
    while (start + same < batches.length && (batches[start + same] as Int32Array).length === size) same += 1;
    for (let left = same; left > 0; ) {
      const steps = Math.min(most, 2 ** Math.floor(Math.log2(left)));
      found.push({ size, start, steps });
      start += steps;
      left -= steps;
    }
  }
  return found;
}
