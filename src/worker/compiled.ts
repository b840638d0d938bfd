import * as tf from '@tensorflow/tfjs-core';
import type { Engine, Executable, Signature } from '../engine/index.ts';
import type { Named, ParamSpec, StateSpec } from '../modules/index.ts';
import { type Optimizer, type ParamInfo, type StepPhase, scalarCount, updateFunction } from '../optim/index.ts';

/** What the optimizer may know about a parameter. */
export function paramInfo({ path, spec }: Named<ParamSpec>): ParamInfo {
  return { path, shape: spec.shape, decay: spec.decay };
}

/**
 * The small traced functions that a worker runs between the layers: adding gradients up, squared norms, optimizer and
 * state updates. Each serves a whole group of parameters (a layer's, or an expert's) in one run, and is compiled once
 * per list of shapes.
 */
export class CompiledUpdates {
  readonly #engine: Engine;
  readonly #optimizer: Optimizer;
  readonly #microbatches: number;
  readonly #cache = new Map<string, Promise<Executable>>();
  /** By who asks (a group of parameters), so that a step does not make the keys of the cache again and again. */
  readonly #asked = new WeakMap<object, Map<string, Promise<Executable>>>();

  constructor(engine: Engine, optimizer: Optimizer, microbatches: number) {
    this.#engine = engine;
    this.#optimizer = optimizer;
    this.#microbatches = microbatches;
  }

  /** What `make` gives, made once for an owner. */
  once(owner: object, what: string, make: () => Promise<Executable>): Promise<Executable> {
    let own = this.#asked.get(owner);
    if (!own) {
      own = new Map();
      this.#asked.set(owner, own);
    }
    let made = own.get(what);
    if (!made) {
      made = make();
      own.set(what, made);
    }
    return made;
  }

  /** `(a_1..a_k, b_1..b_k) -> a_i + b_i`. */
  add(signatures: readonly Signature[]): Promise<Executable> {
    const count = signatures.length;
    return this.#compile(`add ${key(signatures)}`, [...signatures, ...signatures], 'gradient sum', (...inputs) =>
      inputs.slice(0, count).map((left, i) => tf.add(left, inputs[count + i] as tf.Tensor)),
    );
  }

  /** `(a_1..a_k, b_1..b_k) -> scale (a_i - b_i)`. */
  changes(signatures: readonly Signature[], scale: number): Promise<Executable> {
    const count = signatures.length;
    const own = signatures.map(({ dtype, shape }) => ({ dtype, shape }));
    return this.#compile(`changes ${scale} ${key(own)}`, [...own, ...own], 'changes of a round', (...inputs) =>
      inputs.slice(0, count).map((before, i) => {
        const change = tf.sub(before, inputs[count + i] as tf.Tensor);
        return scale === 1 ? change : tf.mul(change, scale);
      }),
    );
  }

  /** Sum of squares of each of the tensors, as one vector `[k]`. */
  squaredNorms(signatures: readonly Signature[]): Promise<Executable> {
    return this.#compile(`norms ${key(signatures)}`, signatures, 'gradient norms', (...inputs) =>
      tf.stack(inputs.map((gradient) => tf.sum(tf.square(gradient)))),
    );
  }

  /**
   * `(params, gradients, slots (parameter by parameter)) -> [params, n]`: what the optimizer wants summed over all parameters.
   */
  sums(params: readonly Named<ParamSpec>[]): Promise<Executable> {
    const infos = params.map(paramInfo);
    const counts = infos.map((info) => this.#optimizer.slots(info).length);
    const own: Signature[] = params.map(({ spec }) => ({ dtype: 'float32', shape: spec.shape }));
    const slots = own.flatMap((signature, i) => new Array<Signature>(counts[i] as number).fill(signature));
    const groups = infos.map((info) => this.#optimizer.groupKey(info)).join(' ');
    return this.#compile(
      `sums ${groups} ${key(own)}`,
      [...own, ...own, ...slots],
      'sums over parameters',
      (...inputs) => {
        let at = 2 * params.length;
        return tf.stack(
          infos.map((info, i) => {
            const held = inputs.slice(at, at + (counts[i] as number));
            at += held.length;
            const [param, gradient] = [inputs[i], inputs[params.length + i]] as [tf.Tensor, tf.Tensor];
            return tf.stack([...(this.#optimizer.sums?.of(param, gradient, held, info) ?? [])]);
          }),
        );
      },
    );
  }

  /**
   * `(params, gradients, slots (parameter by parameter), optimizer scalars, scale) -> (params, slots)`. With `clip`,
   * gradients are multiplied by `scale` first (the clipping factor; 1 leaves their bits alone); else there is no `scale`.
   * Without a `phase` it is for any.
   */
  update(params: readonly Named<ParamSpec>[], clip: boolean, phase?: StepPhase): Promise<Executable> {
    const infos = params.map(paramInfo);
    const parts = infos.map((info) => updateFunction(this.#optimizer, info, { clipping: clip, phase }));
    const slotCounts = infos.map((info) => this.#optimizer.slots(info).length);
    const scalars = scalarCount(this.#optimizer) + (clip ? 1 : 0);
    const own: Signature[] = params.map(({ spec }) => ({ dtype: 'float32', shape: spec.shape }));
    const slots = own.flatMap((signature, i) => new Array<Signature>(slotCounts[i] as number).fill(signature));
    const signature = [...own, ...own, ...slots, ...new Array<Signature>(scalars).fill(SCALAR)];
    const groups = infos.map((info) => this.#optimizer.groupKey(info)).join(' ');
    return this.#compile(
      `update ${clip} ${phase ?? 'any'} ${groups} ${key(own)}`,
      signature,
      `${this.#optimizer.name} update`,
      (...inputs) => {
        const last = inputs.slice(inputs.length - scalars);
        let at = 2 * params.length;
        const results = parts.map(({ fn }, i) => {
          const held = inputs.slice(at, at + (slotCounts[i] as number));
          at += held.length;
          return fn(
            inputs[i] as tf.Tensor,
            inputs[params.length + i] as tf.Tensor,
            ...held,
            ...last,
          ) as readonly tf.Tensor[];
        });
        return [...results.map((result) => result[0] as tf.Tensor), ...results.flatMap((result) => result.slice(1))];
      },
    );
  }

  /** `(states, contributions) -> states` at the end of a step. */
  updateState(layer: string, states: readonly Named<StateSpec>[]): Promise<Executable> {
    const own: Signature[] = states.map(({ spec }) => ({ dtype: 'float32', shape: spec.shape }));
    return this.#compile(`state ${layer}`, [...own, ...own], `${layer} state update`, (...inputs) =>
      states.map(({ spec }, i) =>
        spec.update(inputs[i] as tf.Tensor, inputs[states.length + i] as tf.Tensor, this.#microbatches),
      ),
    );
  }

  #compile(
    id: string,
    signature: readonly Signature[],
    name: string,
    fn: (...inputs: tf.Tensor[]) => readonly tf.Tensor[] | tf.Tensor,
  ): Promise<Executable> {
    let made = this.#cache.get(id);
    if (!made) {
      made = this.#engine.compile(fn, signature, { name });
      this.#cache.set(id, made);
    }
    return made;
  }
}

const SCALAR: Signature = { dtype: 'float32', shape: [] };

function key(signatures: readonly Signature[]): string {
  return signatures.map(({ shape }) => `[${shape.join(',')}]`).join('');
}
