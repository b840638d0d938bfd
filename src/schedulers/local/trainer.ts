import type { Split } from '../../data/index.ts';
import { type DeviceTensor, type Engine, type Executable, type Signature, tf } from '../../engine/index.ts';
import type { Model, TaskInfo } from '../../modules/index.ts';
import type { OptimizerPlan } from '../../optim/index.ts';
import { float32, type HostTensor, int32, type TypedArray, zeros } from '../../tensor/index.ts';
import { partOf, type VectorLayout, vectorLayout } from './layout.ts';
import { type ModelFunction, modelFunction } from './model-function.ts';
import { type LocalObjective, type LocalPass, type ObjectiveTensors, plainPass } from './objective.ts';
import { ofParam, paramInfos, type ShapedTensor, shapedTensors, stepsFunction, trainedBy } from './step-function.ts';

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
  /** Places of the batches' examples among the public ones: for passes over those. */
  readonly positions?: readonly Int32Array[];
}

/** The objective's tensors by name: of shape `param` one for each parameter, else a single one. */
export type TensorLists = ReadonlyMap<string, readonly DeviceTensor[]>;

/** What some local steps gave. */
export interface LocalResult {
  readonly state: LocalState;
  /** The objective's tensors that move, as they are now. */
  readonly moved: TensorLists;
  readonly losses: Float32Array;
}

/** Outputs of a run that a later one may write over, and the state made of them. */
interface Recent {
  readonly state: LocalState;
  readonly outputs: readonly (DeviceTensor | null)[];
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
  /** Results of the last two runs of each pass: the memory of the one that a run does not begin with takes its outputs. */
  readonly #recent = new Map<string, [Recent | null, Recent | null]>();
  /** The objective's tensors, shapes known. */
  readonly tensorsOf: readonly ShapedTensor[];
  #after: Promise<Executable> | null = null;
  #own: Promise<Executable> | null = null;

  constructor(options: LocalTrainerOptions) {
    this.#options = options;
    this.tensorsOf = shapedTensors(options.objective, options.info);
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
    const declared = this.tensorsOf.find((tensor) => tensor.name === name);
    if (!declared) throw new Error(`objective "${this.#options.objective.name}" has no tensor "${name}"`);
    return declared.shape === 'param'
      ? this.tensors(values, this.layout)
      : [this.#options.engine.upload(float32(values.slice(), declared.shape))];
  }

  /**
   * What a tensor of scope `client` or `fit` is before there is any.
   * @param start the parameters that the fit begins with
   */
  initialTensors({ name, shape, initial = 0 }: ShapedTensor, start: LocalState): readonly DeviceTensor[] {
    if (initial === 'start') return start.params;
    if (initial === 'class-counts') throw new Error(`the tensor "${name}" counts classes: give it (classCounts)`);
    const shapes = shape === 'param' ? this.layout.places.map((place) => place.shape) : [shape];
    return shapes.map((each) => this.#options.engine.upload(filled(each, initial)));
  }

  /**
   * Makes steps from a state, which is not changed. `tensors`: the objective's, by name, as `objectiveTensors` gives them.
   * `pass`: one of the objective's; what it does not train is handed on. What is returned is valid until the next call for the
   * same pass, unless that one begins with it.
   * @throws Error if a tensor is missing, or the pass trains nothing
   */
  async train(
    from: LocalState,
    { split, batches, first, key, positions }: LocalSteps,
    tensors: TensorLists,
    pass: LocalPass = plainPass,
  ): Promise<LocalResult> {
    const { engine, optimizer, objective } = this.#options;
    const given = new Map<string, readonly DeviceTensor[]>();
    for (const { name } of this.tensorsOf) {
      const values = tensors.get(name);
      if (!values) throw new Error(`objective "${objective.name}" needs its tensor "${name}", which was not given`);
      given.set(name, values);
    }
    const moving = this.tensorsOf.filter(({ moves }) => moves);
    const infos = paramInfos(this.#model(1));
    const trained = trainedBy(pass, infos);
    const slotCounts = infos.map((info) => optimizer.optimizer.slots(info).length);
    const recent = this.#recent.get(pass.name) ?? [null, null];
    this.#recent.set(pass.name, recent);
    const losses = new Float32Array(batches.length);
    let current = from;
    for (const { size, start, steps } of chunks(batches, this.#options.unroll ?? 8)) {
      const executable = await this.#steps(pass, size, steps);
      const model = this.#model(size);
      const examples = new Int32Array(steps * size);
      const places = new Int32Array(positions ? steps * size : 0);
      const keys = new Int32Array(steps * 2);
      const scalars: number[] = [];
      for (let i = 0; i < steps; i++) {
        const step = first + start + i;
        examples.set(batches[start + i] as Int32Array, i * size);
        if (positions) places.set(positions[start + i] as Int32Array, i * size);
        keys.set(key(step).data as Int32Array, i * 2);
        const lr = optimizer.lrAt(step);
        scalars.push(...optimizer.optimizer.scalars(lr, step + 1), lr);
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
        ...[...given.values()].flat(),
        engine.upload(int32(keys, [steps, 2])),
        engine.upload(float32(Float32Array.from(scalars), [steps, scalars.length / steps])),
        ...(pass.over === 'public' ? [engine.upload(int32(places, [steps, size]))] : []),
        ...stacked,
      ];
      const place = recent[0]?.state === current ? 1 : 0;
      const outputs = await executable.run(inputs, recent[place]?.outputs);
      losses.set((await engine.download(outputs.at(-1) as DeviceTensor)).data as Float32Array, start);
      let at = 0;
      const take = (count: number) => {
        at += count;
        return outputs.slice(at - count, at);
      };
      let slot = 0;
      current = {
        params: current.params.map((param, i) => (trained[i] ? (take(1)[0] as DeviceTensor) : param)),
        slots: slotCounts.flatMap((count, i) => {
          slot += count;
          return trained[i] ? take(count) : current.slots.slice(slot - count, slot);
        }),
        state: take(current.state.length),
      };
      for (const { name } of moving) given.set(name, take((given.get(name) as readonly DeviceTensor[]).length));
      recent[place] = { state: current, outputs: [...outputs.slice(0, -1), null] };
    }
    return {
      state: current,
      moved: new Map([...given].filter(([name]) => moving.some((m) => m.name === name))),
      losses,
    };
  }

  /**
   * The objective's `client` tensors that `after` and `finish` give once a fit has ended, by name: in the layout of the
   * parameters, or of a shape of their own.
   */
  async after(
    start: LocalState,
    end: LocalState,
    tensors: TensorLists,
    steps: number,
    lr: number,
  ): Promise<ReadonlyMap<string, Float32Array>> {
    const { engine, objective } = this.#options;
    if (!objective.after && !objective.finish) return new Map();
    this.#after ??= this.#compileAfter();
    const executable = await this.#after;
    const scalar = (value: number) => engine.upload(float32([value], []));
    const outputs = await executable.run([
      ...start.params,
      ...end.params,
      ...this.tensorsOf.flatMap(({ name }) => tensors.get(name) ?? []),
      scalar(steps),
      scalar(lr),
    ]);
    const results = new Map<string, Float32Array>();
    for (const tensor of this.#changed)
      results.set(tensor.name, await this.values(tensor, outputs.splice(0, this.#count(tensor))));
    return results;
  }

  /** Parameters of the client's own model, by the objective's `own`. @throws Error if a `client` tensor is missing */
  async own(server: LocalState, tensors: TensorLists): Promise<readonly DeviceTensor[]> {
    const { engine, objective } = this.#options;
    if (!objective.own) return server.params;
    const kept = this.tensorsOf.filter(({ scope }) => scope === 'client');
    const infos = paramInfos(this.#model(1));
    this.#own ??= engine.compile(
      (...given) => {
        const params = given.splice(0, infos.length);
        const lists = kept.map((tensor) => ({ ...tensor, values: given.splice(0, this.#count(tensor)) }));
        return infos.map((info, i) => objective.own?.(params[i] as tf.Tensor, ofParam(lists, i), info) as tf.Tensor);
      },
      [...infos.map(({ shape }) => like(shape)), ...kept.flatMap((tensor) => this.#signature(tensor))],
      { name: `own model of ${objective.name}` },
    );
    const given = kept.flatMap(({ name }) => {
      const values = tensors.get(name);
      if (!values)
        throw new Error(`the own model of "${objective.name}" needs its tensor "${name}", which was not given`);
      return values;
    });
    return (await this.#own).run([...server.params, ...given]);
  }

  /** Reads one of the objective's tensors back: in the layout of the parameters, or of a shape of its own. */
  async values({ shape }: ShapedTensor, tensors: readonly DeviceTensor[]): Promise<Float32Array> {
    if (shape === 'param') return this.vector(tensors, this.layout);
    return ((await this.#options.engine.download(tensors[0] as DeviceTensor)).data as Float32Array).slice();
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

  #steps(pass: LocalPass, batch: number, steps: number): Promise<Executable> {
    const name = `${pass.name === '' ? '' : `${pass.name}: `}${steps} steps of ${batch}`;
    let executable = this.#executables.get(name);
    if (!executable) {
      const { engine, objective, optimizer } = this.#options;
      const { fn, signature } = stepsFunction({
        model: this.#model(batch),
        optimizer: optimizer.optimizer,
        clipNorm: optimizer.clipNorm,
        objective,
        tensors: this.tensorsOf,
        pass,
        steps,
      });
      executable = engine.compile(fn, signature, { name });
      this.#executables.set(name, executable);
    }
    return executable;
  }

  /** Tensors that `after` and `finish` may change: those that steps move are known already. */
  get #changed(): ShapedTensor[] {
    const { after, finish, passes = [] } = this.#options.objective;
    return this.tensorsOf.filter(
      ({ name, scope, shape, moves }) =>
        scope === 'client' &&
        !moves &&
        !passes.some(({ into }) => into === name) &&
        (shape === 'param' ? after : finish),
    );
  }

  /** Tensors that one of the objective's consists of. */
  #count({ shape }: ShapedTensor): number {
    return shape === 'param' ? this.layout.places.length : 1;
  }

  #signature({ shape }: ShapedTensor): Signature[] {
    return shape === 'param' ? this.layout.places.map((place) => like(place.shape)) : [like(shape)];
  }

  #compileAfter(): Promise<Executable> {
    const { engine, objective } = this.#options;
    const infos = paramInfos(this.#model(1));
    const shapes = infos.map(({ shape }) => shape);
    return engine.compile(
      (...given) => {
        const params = given.splice(0, infos.length);
        const ends = given.splice(0, infos.length);
        const values = this.tensorsOf.map((tensor) => ({ ...tensor, values: given.splice(0, this.#count(tensor)) }));
        const [steps, lr] = given as [tf.Tensor, tf.Tensor];
        const results = infos.map((info, i) => {
          const own = ofParam(values, i);
          const [start, param] = [params[i] as tf.Tensor, ends[i] as tf.Tensor];
          return { own, made: objective.after?.({ start, param, tensors: own, steps, lr }, info) ?? {} };
        });
        const whole: ObjectiveTensors = Object.fromEntries(
          values.flatMap(({ name, shape, values: [value] }) =>
            shape === 'param' ? [] : [[name, value as tf.Tensor] as const],
          ),
        );
        const finished = objective.finish?.(whole) ?? {};
        return this.#changed.flatMap(({ name, shape }) =>
          shape === 'param'
            ? results.map(({ own, made }) => tf.add(made[name] ?? (own[name] as tf.Tensor), 0))
            : [tf.add(finished[name] ?? (whole[name] as tf.Tensor), 0)],
        );
      },
      [
        ...shapes.map(like),
        ...shapes.map(like),
        ...this.tensorsOf.flatMap((tensor) => this.#signature(tensor)),
        like([]),
        like([]),
      ],
      { name: `after ${objective.name}` },
    );
  }
}

function like(shape: readonly number[]): Signature {
  return { dtype: 'float32', shape };
}

function filled(shape: readonly number[], value: number): HostTensor {
  const tensor = zeros('float32', shape);
  if (value !== 0) tensor.data.fill(value as never);
  return tensor;
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
