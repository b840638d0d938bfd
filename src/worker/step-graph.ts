import * as tf from '@tensorflow/tfjs-core';
import type { DeviceTensor, Executable, Sequence, SequenceValue, Signature, SlotId } from '../engine/index.ts';
import { scalarCount } from '../optim/index.ts';
import type { Instruction } from '../plan/index.ts';
import type { Shape } from '../tensor/index.ts';
import { type HeldParam, type HeldState, type ParamGroup, updatedHere } from './param-group.ts';
import type { RankParts } from './program-run.ts';
import type { RankLayer } from './rank-model.ts';

/** Where a value that is given to some steps comes from; `step` counts from the first of them. */
export type StepSource =
  /** A parameter, one of its slots, or module state, as it is before the first of the steps. */
  | { readonly of: 'held'; readonly held: Held }
  | { readonly of: 'inputs' | 'targets' | 'scalars'; readonly step: number; readonly index: number }
  /** The random key of a layer. */
  | { readonly of: 'key'; readonly step: number; readonly layer: string }
  | { readonly of: 'objective seed' }
  | { readonly of: 'zeros'; readonly signature: Signature };

/** A place of something that lasts from step to step. */
export interface Held {
  get(): DeviceTensor;
  set(tensor: DeviceTensor): void;
}

/** Some steps of a rank as one sequence of runs. */
export interface StepGraph {
  readonly sequence: Sequence;
  /** Where what is given comes from, in order. */
  readonly sources: readonly StepSource[];
  /**
   * The sequence's outputs: one vector with each step's metrics and then the squared norms of these parameters' gradients, and
   * after the last step what is held in `changed`.
   */
  readonly metrics: readonly { readonly name: string; readonly shape: Shape }[];
  readonly norms: readonly string[];
  readonly changed: readonly Held[];
}

/** Instructions of a step that no other rank has a part in. */
const OWN: ReadonlySet<Instruction['op']> = new Set<Instruction['op']>([
  'LoadBatch',
  'Forward',
  'Backward',
  'Optimize',
]);

/**
 * Whether a rank's steps can be written down as runs alone: it has the whole model and a single microbatch, and nothing is looked
 * at on the host on the way (a norm for clipping, sums over parameters, counts of experts).
 */
export function stepsAreRuns({ job: { train }, model, optimizer: { optimizer, clipNorm } }: RankParts): boolean {
  return (
    train.microbatches === 1 &&
    train.stages.length === train.totalStages &&
    train.local === undefined &&
    train.instructions.every(({ op }) => OWN.has(op)) &&
    clipNorm === null &&
    optimizer.sums === undefined &&
    [...model.layers.values()].every(
      ({ train: mode }) => mode.experts.length === 0 && mode.compiled.plan.forwards === 1,
    )
  );
}

/** Writes down what `count` steps run, one after another, as the interpreter runs them. */
export async function writeSteps(parts: RankParts, count: number): Promise<StepGraph> {
  const writer = new StepWriter(parts);
  for (let step = 0; step < count; step++) await writer.step(step);
  return writer.finish();
}

/** A layer of a step that is being written down. */
interface WrittenLayer {
  readonly layer: RankLayer;
  readonly values: Map<SlotId, SequenceValue>;
}

class StepWriter {
  readonly #parts: RankParts;
  readonly #layers: readonly RankLayer[];
  readonly #given: Signature[] = [];
  readonly #sources: StepSource[] = [];
  readonly #calls: { executable: Executable; inputs: readonly SequenceValue[] }[] = [];
  /** What is told of the steps. */
  readonly #told: SequenceValue[] = [];
  readonly #toldOf: Signature[] = [];
  /** Present values of what is held, as far as it has been looked at. */
  readonly #held = new Map<Held, SequenceValue>();
  readonly #places = new Map<HeldParam | HeldState, readonly Held[]>();
  readonly #shared = new Map<string, SequenceValue>();
  #metrics: { readonly name: string; readonly shape: Shape }[] = [];
  #norms: string[] = [];

  constructor(parts: RankParts) {
    this.#parts = parts;
    this.#layers = [...parts.model.layers.values()].sort((a, b) => a.index - b.index);
  }

  async step(step: number): Promise<void> {
    const { model, optimizer } = this.#parts;
    this.#metrics = [];
    this.#norms = [];
    const written: WrittenLayer[] = [];
    for (const layer of this.#layers) written.push(this.#forward(step, layer, written.at(-1)));
    for (const [i, layer] of [...written.entries()].reverse()) this.#backward(layer, written[i + 1]);
    const sums = new Map<ParamGroup, readonly SequenceValue[]>();
    for (const { layer, values } of written) {
      const { slots } = layer.train.compiled;
      const wanted = [...layer.group.gradientOf.map((i) => slots.paramGradients[i] as SlotId), ...slots.contributions];
      sums.set(
        layer.group,
        wanted.map((slot) => slotValue(values, slot)),
      );
    }
    for (const group of model.groups) await this.#norm(group, sums.get(group) ?? []);
    const scalars = Array.from({ length: scalarCount(optimizer.optimizer) }, (_, index) =>
      this.#value({ of: 'scalars', step, index }, { dtype: 'float32', shape: [] }),
    );
    for (const group of model.groups) await this.#update(group, sums.get(group) ?? [], scalars);
  }

  async finish(): Promise<StepGraph> {
    const changed = [...this.#held].filter(([, value]) => !('given' in value));
    // To read one vector costs less than dozens of numbers.
    const together = await this.#parts.space.engine.compile(
      (...values) => tf.concat(values.map((value) => tf.reshape(value, [-1]))),
      this.#toldOf,
      { name: 'what is told of steps' },
    );
    const told = this.#call(together, this.#told);
    return {
      sequence: {
        given: this.#given,
        calls: this.#calls,
        outputs: [...told, ...changed.map(([, value]) => value)],
      },
      sources: this.#sources,
      metrics: this.#metrics,
      norms: this.#norms,
      changed: changed.map(([held]) => held),
    };
  }

  #forward(step: number, layer: RankLayer, before: WrittenLayer | undefined): WrittenLayer {
    const { slots, plan, name, fn } = layer.train.compiled;
    const values = new Map<SlotId, SequenceValue>();
    const reads = new Set(plan.phased.phases.flatMap((phase) => phase.reads));
    const give = (list: readonly SlotId[], make: (index: number, signature: Signature) => SequenceValue) => {
      list.forEach((slot, i) => {
        if (reads.has(slot) || plan.uses.has(slot)) values.set(slot, make(i, plan.phased.slots.get(slot) as Signature));
      });
    };
    const { params, state } = layer.group;
    give(slots.params, (i) => this.#now(this.#placesOf(params[i] as HeldParam)[0] as Held));
    give(slots.state, (i) => this.#now(this.#placesOf(state[i] as HeldState)[0] as Held));
    give([slots.key], (_, signature) => this.#value({ of: 'key', step, layer: name }, signature));
    const earlier = before?.layer.train.compiled.slots.outputs;
    give(slots.activations, (index, signature) =>
      before && earlier
        ? slotValue(before.values, earlier[index] as SlotId)
        : this.#value({ of: 'inputs', step, index }, signature),
    );
    give(slots.targets, (index, signature) => this.#value({ of: 'targets', step, index }, signature));
    const { objectiveCotangent } = slots;
    if (objectiveCotangent !== null)
      give([objectiveCotangent], (_, signature) => this.#value({ of: 'objective seed' }, signature));
    const written = { layer, values };
    this.#phase(written, 0);
    fn.layout.metrics.forEach((metric, i) => {
      const slot = slots.metrics[i] as SlotId;
      const { shape } = plan.phased.slots.get(slot) as Signature;
      this.#metrics.push({ name: metric.name, shape });
      this.#told.push(slotValue(values, slot));
      this.#toldOf.push({ dtype: 'float32', shape });
    });
    return written;
  }

  #backward(written: WrittenLayer, after: WrittenLayer | undefined): void {
    const { slots, plan } = written.layer.train.compiled;
    const gradients = after?.layer.train.compiled.slots.inputGradients;
    slots.outputCotangents.forEach((slot, i) => {
      if (slot === null) return;
      const found = gradients?.[i] ?? null;
      const signature = plan.phased.slots.get(slot) as Signature;
      written.values.set(
        slot,
        after && found !== null ? slotValue(after.values, found) : this.#value({ of: 'zeros', signature }, signature),
      );
    });
    for (const phase of [plan.backwardOf[0], plan.weightPhase])
      if (phase !== null && phase !== undefined) this.#phase(written, phase);
  }

  #phase({ layer, values }: WrittenLayer, index: number): void {
    const phase = layer.train.compiled.plan.phased.phases[index];
    if (!phase || phase.executable.outputs.length === 0) return;
    const results = this.#call(
      phase.executable,
      phase.reads.map((slot) => slotValue(values, slot)),
    );
    phase.writes.forEach((slot, i) => {
      values.set(slot, results[i] as SequenceValue);
    });
  }

  async #norm(group: ParamGroup, sums: readonly SequenceValue[]): Promise<void> {
    const params = group.gradientOf.map((i) => group.params[i] as HeldParam);
    if (params.length === 0) return;
    const executable = await this.#parts.model.updates.squaredNorms(
      params.map(({ spec }) => ({ dtype: 'float32', shape: spec.shape })),
    );
    this.#told.push(...this.#call(executable, sums.slice(0, params.length)));
    this.#toldOf.push({ dtype: 'float32', shape: [params.length] });
    this.#norms.push(...params.map(({ path }) => path));
  }

  async #update(group: ParamGroup, sums: readonly SequenceValue[], scalars: readonly SequenceValue[]): Promise<void> {
    const { updates } = this.#parts.model;
    const indices = updatedHere(group);
    if (indices.length > 0) {
      const params = indices.map((i) => group.params[i] as HeldParam);
      const places = params.map((param) => this.#placesOf(param));
      const gradients = indices.map((index, i) => {
        const position = group.gradientOf.indexOf(index);
        const signature: Signature = { dtype: 'float32', shape: (params[i] as HeldParam).spec.shape };
        return position < 0 ? this.#value({ of: 'zeros', signature }, signature) : (sums[position] as SequenceValue);
      });
      // Parameters first, then slots, parameter by parameter; the results are in the same order.
      const own = [...places.map(([value]) => value as Held), ...places.flatMap(([, ...slots]) => slots)];
      const before = own.map((held) => this.#now(held));
      const results = this.#call(await updates.update(params, false), [
        ...before.slice(0, params.length),
        ...gradients,
        ...before.slice(params.length),
        ...scalars,
      ]);
      for (const [i, held] of own.entries()) this.#held.set(held, results[i] as SequenceValue);
    }
    const contributed = group.contributionOf.flatMap((index, i) => {
      const [state, sum] = [group.state[index], sums[group.gradientOf.length + i]];
      return state && sum ? [{ state, sum }] : [];
    });
    if (contributed.length === 0) return;
    const executable = await updates.updateState(
      group.name,
      contributed.map(({ state }) => state),
    );
    const states = contributed.map(({ state }) => this.#placesOf(state)[0] as Held);
    const results = this.#call(executable, [
      ...states.map((held) => this.#now(held)),
      ...contributed.map(({ sum }) => sum),
    ]);
    for (const [i, held] of states.entries()) this.#held.set(held, results[i] as SequenceValue);
  }

  #call(executable: Executable, inputs: readonly SequenceValue[]): SequenceValue[] {
    const call = this.#calls.length;
    this.#calls.push({ executable, inputs });
    return executable.outputs.map((_, output) => ({ call, output }));
  }

  /** The present value of what is held. */
  #now(held: Held): SequenceValue {
    const known = this.#held.get(held);
    if (known) return known;
    const value = this.#value({ of: 'held', held }, held.get());
    this.#held.set(held, value);
    return value;
  }

  #value(source: StepSource, { dtype, shape }: Signature): SequenceValue {
    const shared = source.of === 'zeros' || source.of === 'objective seed' ? `${source.of} ${dtype} ${shape}` : null;
    const known = shared === null ? undefined : this.#shared.get(shared);
    if (known) return known;
    const value = { given: this.#given.length };
    this.#given.push({ dtype, shape });
    this.#sources.push(source);
    if (shared !== null) this.#shared.set(shared, value);
    return value;
  }

  /** A parameter and its slots, or a state. */
  #placesOf(held: HeldParam | HeldState): readonly Held[] {
    const known = this.#places.get(held);
    if (known) return known;
    const places: Held[] = [
      {
        get: () => held.tensor,
        set: (tensor) => {
          held.tensor = tensor;
        },
      },
      ...('slots' in held
        ? held.slots.map((_, i) => ({
            get: () => held.slots[i] as DeviceTensor,
            set: (tensor: DeviceTensor) => {
              held.slots[i] = tensor;
            },
          }))
        : []),
    ];
    this.#places.set(held, places);
    return places;
  }
}

function slotValue(values: ReadonlyMap<SlotId, SequenceValue>, slot: SlotId): SequenceValue {
  const value = values.get(slot);
  if (!value) throw new Error(`slot ${slot} has no value where steps are written down; this is a defect of the worker`);
  return value;
}
