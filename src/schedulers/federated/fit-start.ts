import type { Split } from '../../data/index.ts';
import type { DeviceTensor, Engine } from '../../engine/index.ts';
import { float32 } from '../../tensor/index.ts';
import { classCounts, type LocalObjective, type LocalState, type LocalTrainer, type Place } from '../local/index.ts';
import { stateNameOf } from './fit-passes.ts';
import type { ClientFit, SharedStart } from './fit-task.ts';
import type { UpdateArena } from './update-arena.ts';

/** Name of the values that stay with a client, among what it keeps. */
export const PERSONAL = 'personal';

/** What the fits of a round share on one thread; until another start is opened. */
export interface FitStart {
  readonly version: number;
  readonly state: LocalState;
  readonly tensors: ReadonlyMap<string, readonly DeviceTensor[]>;
  /** Names of the `round` tensors that were given. */
  readonly given: ReadonlySet<string>;
  readonly params: Float32Array;
  readonly moduleState: Float32Array;
}

/** Places of parameters, then of module state, that stay with the client. */
export type PersonalPlaces = readonly [readonly Place[], readonly Place[]];

/** What `FitStarts` are made of. */
export interface FitStartsOptions {
  readonly engine: Engine;
  readonly trainer: LocalTrainer;
  readonly objective: LocalObjective;
  readonly personal: PersonalPlaces;
  /** Where updates are made: it has the start that they are measured from, and fits begin with that very memory. */
  readonly arena: UpdateArena;
  /** Where the examples are that classes are counted of, and how many classes there are; undefined where targets are none. */
  readonly split: Split;
  readonly classes: number | undefined;
}

/** What fits begin with, on the engine of one thread: the server's values, uploaded once a round, and each client's own. */
export class FitStarts {
  readonly #options: FitStartsOptions;
  #start: FitStart | null = null;

  constructor(options: FitStartsOptions) {
    this.#options = options;
  }

  /** What was published, uploaded unless it is what was opened last. */
  open(shared: SharedStart): FitStart {
    if (this.#start?.version === shared.version) return this.#start;
    const { trainer, arena } = this.#options;
    arena.begin(new Float32Array(shared.params), new Float32Array(shared.state));
    const params = arena.start.subarray(0, trainer.layout.size);
    const moduleState = arena.start.subarray(trainer.layout.size);
    const state = trainer.upload(params, moduleState, true);
    const tensors = new Map<string, readonly DeviceTensor[]>();
    for (const tensor of trainer.tensorsOf) {
      const { name, scope, optional } = tensor;
      if (scope === 'start') tensors.set(name, state.params);
      if (scope !== 'round') continue;
      // (Where one is missing a fit says so; an evaluation needs none.)
      const given = shared.round[name];
      if (given) tensors.set(name, trainer.objectiveTensors(name, new Float32Array(given)));
      else if (optional) tensors.set(name, trainer.initialTensors(tensor, state));
    }
    const given = new Set(Object.keys(shared.round));
    this.#start = { version: shared.version, state, tensors, given, params, moduleState };
    return this.#start;
  }

  /** What a client begins with: the server's values, and its own where it keeps some. */
  personalised(start: FitStart, own: Float32Array | undefined): LocalState {
    const { engine, trainer } = this.#options;
    const [params, state] = this.#options.personal;
    if (!own || params.length + state.length === 0) return start.state;
    let at = 0;
    const replaced = (tensors: readonly DeviceTensor[], all: readonly Place[], places: readonly Place[]) => {
      const result = [...tensors];
      for (const place of places) {
        const values = own.slice(at, at + place.size);
        at += place.size;
        result[all.indexOf(place)] = engine.upload(float32(values, place.shape));
      }
      return result;
    };
    return {
      params: replaced(start.state.params, trainer.layout.places, params),
      slots: start.state.slots,
      state: replaced(start.state.state, trainer.stateLayout.places, state),
    };
  }

  /** All of the objective's tensors, as a client's fit begins with them. */
  clientTensors(
    start: FitStart,
    kept: ClientFit['kept'],
    first: LocalState,
    examples: Int32Array,
  ): Map<string, readonly DeviceTensor[]> {
    const { trainer } = this.#options;
    const tensors = new Map(start.tensors);
    for (const tensor of trainer.tensorsOf) {
      const { name, scope } = tensor;
      if (scope !== 'client' && scope !== 'fit') continue;
      const counts = tensor.initial === 'class-counts' ? this.#classCounts(examples) : undefined;
      const values = scope === 'client' ? kept[name] : counts;
      tensors.set(name, values ? trainer.objectiveTensors(name, values) : trainer.initialTensors(tensor, first));
    }
    return tensors;
  }

  /** A client's own model: its own layers in their places, then what the objective makes of it. */
  async ownModel(start: FitStart, kept: ClientFit['kept']): Promise<LocalState> {
    const { trainer } = this.#options;
    const first = this.personalised(start, kept[PERSONAL]);
    const { passes = [], own } = this.#options.objective;
    if (!own || Object.keys(kept).length === 0) return first;
    const params = await trainer.own(first, this.clientTensors(start, kept, first, new Int32Array(0)));
    const state = passes.flatMap(({ into }) => (into ? (kept[stateNameOf(into)] ?? []) : []));
    if (state.length === 0) return { ...first, params };
    return { ...first, params, state: trainer.tensors(Float32Array.from(state), trainer.stateLayout) };
  }

  #classCounts(examples: Int32Array): Float32Array {
    const { split, classes, objective } = this.#options;
    if (!split.labels || classes === undefined)
      throw new Error(`"${objective.name}" goes by the classes of examples, and this dataset has none`);
    return classCounts(split.labels, examples, classes);
  }
}
