import type { Split } from '../../data/index.ts';
import type { DeviceTensor, Engine, Executable } from '../../engine/index.ts';
import type { Model, TaskInfo } from '../../modules/index.ts';
import type { OptimizerPlan } from '../../optim/index.ts';
import { float32, type HostTensor, zeros } from '../../tensor/index.ts';
import { type Chunk, chunks } from './chunks.ts';
import { FitEnd } from './fit-end.ts';
import { partOf, type TensorPart, type VectorLayout, vectorLayout } from './layout.ts';
import { type ModelFunction, modelFunction } from './model-function.ts';
import { type LocalObjective, type LocalPass, plainPass } from './objective.ts';
import { paramInfos, type ShapedTensor, shapedTensors, stepsFunction, trainedBy } from './step-function.ts';
import { StepInputs } from './step-inputs.ts';

/** Examples of the batch that shapes are read from: batch norm of plain vectors has no variance for a single one. */
const SHAPES = 2;

/** What a local trainer is made of. */
export interface LocalTrainerOptions {
  readonly engine: Engine;
  readonly model: Model;
  readonly info: TaskInfo;
  readonly optimizer: OptimizerPlan;
  readonly objective: LocalObjective;
  /** Steps compiled into one executable at most. More saves calls, and takes longer to compile. Default 8. */
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

/** What a trainer knows of a pass. */
interface KnownPass {
  /** Whether it trains each parameter. */
  readonly trained: readonly boolean[];
  /** Results of its last two runs: the memory of the one that a run does not begin with takes its outputs. */
  readonly recent: [Recent | null, Recent | null];
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
  readonly #passes = new Map<string, KnownPass>();
  /** The objective's tensors, shapes known. */
  readonly tensorsOf: readonly ShapedTensor[];
  /** Those that steps move. */
  readonly #moving: readonly ShapedTensor[];
  /** How many slots each parameter has. */
  readonly #slotCounts: readonly number[];
  readonly #inputs: StepInputs;
  readonly #end: FitEnd;

  constructor(options: LocalTrainerOptions) {
    this.#options = options;
    const { engine, optimizer, objective } = options;
    this.tensorsOf = shapedTensors(objective, options.info);
    this.#moving = this.tensorsOf.filter(({ moves }) => moves);
    const { params, state } = this.#model(SHAPES);
    this.layout = vectorLayout(params);
    this.stateLayout = vectorLayout(state);
    const infos = paramInfos(this.#model(SHAPES));
    this.#slotCounts = infos.map((info) => optimizer.optimizer.slots(info).length);
    this.#inputs = new StepInputs(engine, optimizer);
    this.#end = new FitEnd({ engine, objective, infos, tensors: this.tensorsOf });
  }

  /**
   * Puts a vector of parameters, and one of module state, where the engine computes; optimizer slots are zeros.
   * @param lent whether the vectors stay as they are for as long as the tensors are used, so that no copies are needed
   */
  upload(params: Float32Array, state: Float32Array, lent = false): LocalState {
    const { engine, optimizer } = this.#options;
    const infos = paramInfos(this.#model(SHAPES));
    return {
      params: this.tensors(params, this.layout, lent),
      slots: infos.flatMap((info) =>
        optimizer.optimizer.slots(info).map(() => engine.upload(zeros('float32', info.shape))),
      ),
      state: this.tensors(state, this.stateLayout, lent),
    };
  }

  /** A vector's parts as tensors on the engine: copies, unless the vector is `lent`. */
  tensors(vector: Float32Array, layout: VectorLayout, lent = false): DeviceTensor[] {
    if (vector.length !== layout.size)
      throw new RangeError(`a vector of ${vector.length} numbers was given for tensors of ${layout.size}`);
    return layout.places.map((place) => {
      const part = partOf(vector, place);
      return this.#options.engine.upload(float32(lent ? part : part.slice(), place.shape));
    });
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
    given: LocalSteps,
    tensors: TensorLists,
    pass: LocalPass = plainPass,
  ): Promise<LocalResult> {
    const { engine, objective } = this.#options;
    const own = new Map<string, readonly DeviceTensor[]>();
    for (const { name } of this.tensorsOf) {
      const values = tensors.get(name);
      if (!values) throw new Error(`objective "${objective.name}" needs its tensor "${name}", which was not given`);
      own.set(name, values);
    }
    const { trained, recent } = this.#pass(pass);
    const losses = new Float32Array(given.batches.length);
    let current = from;
    for (const chunk of chunks(given.batches, this.#options.unroll ?? 8)) {
      const executable = await this.#steps(pass, chunk);
      const inputs = [
        ...current.params,
        ...current.slots,
        ...current.state,
        ...[...own.values()].flat(),
        ...this.#inputs.of(chunk, given, this.#model(chunk.size), pass.over === 'public'),
      ];
      const place = recent[0]?.state === current ? 1 : 0;
      const outputs = await executable.run(inputs, recent[place]?.outputs);
      losses.set((await engine.download(outputs.at(-1) as DeviceTensor)).data as Float32Array, chunk.start);
      let at = 0;
      const take = (count: number) => {
        at += count;
        return outputs.slice(at - count, at);
      };
      let slot = 0;
      current = {
        params: current.params.map((param, i) => (trained[i] ? (take(1)[0] as DeviceTensor) : param)),
        slots: this.#slotCounts.flatMap((count, i) => {
          slot += count;
          return trained[i] ? take(count) : current.slots.slice(slot - count, slot);
        }),
        state: take(current.state.length),
      };
      for (const { name } of this.#moving) own.set(name, take((own.get(name) as readonly DeviceTensor[]).length));
      recent[place] = { state: current, outputs: [...outputs.slice(0, -1), null] };
    }
    return {
      state: current,
      moved: new Map(this.#moving.map(({ name }) => [name, own.get(name) as readonly DeviceTensor[]])),
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
    const results = new Map<string, Float32Array>();
    const length = this.#options.optimizer.optimizer.pathLength?.(steps) ?? Number.NaN;
    for (const { tensor, values } of (await this.#end.after(start, end, tensors, length, lr)) ?? [])
      results.set(tensor.name, await this.values(tensor, values));
    return results;
  }

  /** Parameters of the client's own model, by the objective's `own`. @throws Error if a `client` tensor is missing */
  own(server: LocalState, tensors: TensorLists): Promise<readonly DeviceTensor[]> {
    return this.#end.own(server, tensors);
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
    for (const { offset, data } of await this.parts(tensors, layout)) into.set(data, offset);
    return into;
  }

  /** Reads tensors back, each by itself: where they are in memory already, valid as long as they are. */
  async parts(tensors: readonly DeviceTensor[], { places }: VectorLayout): Promise<TensorPart[]> {
    const { engine } = this.#options;
    const read = await Promise.all(places.map((_, i) => engine.download(tensors[i] as DeviceTensor)));
    return places.map(({ offset }, i) => ({ offset, data: read[i]?.data as Float32Array }));
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

  /** What is known of a pass. */
  #pass(pass: LocalPass): KnownPass {
    let known = this.#passes.get(pass.name);
    if (!known) {
      known = { trained: trainedBy(pass, paramInfos(this.#model(SHAPES))), recent: [null, null] };
      this.#passes.set(pass.name, known);
    }
    return known;
  }

  #steps(pass: LocalPass, { size: batch, steps }: Chunk): Promise<Executable> {
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
}

function filled(shape: readonly number[], value: number): HostTensor {
  const tensor = zeros('float32', shape);
  if (value !== 0) tensor.data.fill(value as never);
  return tensor;
}
