import type { DeviceTensor, ExpertCall, SlotId } from '../engine/index.ts';
import { evaluationKey, layerKey } from '../modules/index.ts';
import type { CompiledLayer } from './compiled-layer.ts';
import { Environment } from './environment.ts';
import type { ParamGroup } from './param-group.ts';
import type { Cell, TensorSpace } from './tensor-space.ts';

/** What a pass needs to know of the run. */
export interface PassContext {
  readonly space: TensorSpace;
  readonly seed: number;
  readonly step: number;
  readonly microbatch: number;
  /** 1 / (global microbatches of a step): the cotangent of every layer's objective. Owned by the rank. */
  readonly objectiveSeed: Cell;
}

/** One microbatch on its way through one layer, forward and back. */
export class LayerPass {
  readonly layer: CompiledLayer;
  readonly group: ParamGroup;
  readonly microbatch: number;
  /** Activations for the next layer, once the forward is done; whoever takes them takes the references. */
  outputs: readonly Cell[] | null = null;
  /** Gradients of the incoming activations, once the backward is done; null where there is none. */
  inputGradients: readonly (Cell | null)[] | null = null;
  readonly #environment: Environment;
  readonly #space: TensorSpace;

  /** Takes over the references to `activations` and `targets`. */
  constructor(
    layer: CompiledLayer,
    group: ParamGroup,
    context: PassContext,
    activations: readonly Cell[],
    targets: readonly Cell[],
  ) {
    this.layer = layer;
    this.group = group;
    this.microbatch = context.microbatch;
    this.#space = context.space;
    const { slots, plan, training, name } = layer;
    const shared = sharedTensors(layer, group);
    this.#environment = new Environment(context.space, plan, (slot) => shared.get(slot)?.());
    if ((plan.uses.get(slots.key) ?? 0) > 0) {
      const key = training ? layerKey(context.seed, context.step, context.microbatch, name) : evaluationKey();
      this.#environment.set(slots.key, context.space.upload(key));
    }
    slots.activations.forEach((slot, i) => {
      this.#environment.set(slot, activations[i] as Cell);
    });
    slots.targets.forEach((slot, i) => {
      this.#environment.set(slot, targets[i] as Cell);
    });
    if (training && slots.objectiveCotangent !== null)
      this.#environment.set(slots.objectiveCotangent, context.space.retain(context.objectiveSeed));
  }

  /** Runs forward phase `index`. The last one leaves `outputs`. */
  async forward(index: number): Promise<void> {
    await this.#environment.run(index);
    if (index < this.layer.plan.forwards - 1) return;
    this.outputs = this.layer.slots.outputs.map((slot) => this.#environment.consume(slot));
  }

  /** The metrics of the forward, by name. */
  metrics(): { readonly name: string; readonly cell: Cell }[] {
    return this.layer.fn.layout.metrics.map(({ name }, i) => ({
      name,
      cell: this.#environment.consume(this.layer.slots.metrics[i] as SlotId),
    }));
  }

  /** Says what the cotangents of the outputs are, taking over the references; null stands for zeros. */
  setOutputCotangents(cotangents: readonly (Cell | null)[]): void {
    this.layer.slots.outputCotangents.forEach((slot, i) => {
      const given = cotangents[i] ?? null;
      if (slot === null) {
        if (given) this.#space.release(given);
        return;
      }
      const signature = this.layer.plan.phased.slots.get(slot);
      if (!signature) throw new Error(`layer ${this.layer.name}: the cotangent slot ${slot} has no signature`);
      this.#environment.set(slot, given ?? this.#space.zeros(signature));
    });
  }

  /** Runs the backward of forward phase `index` (nothing, where it was fused with the forward). */
  async backward(index: number): Promise<void> {
    const phase = this.layer.plan.backwardOf[index];
    if (phase !== null && phase !== undefined) await this.#environment.run(phase);
    if (index === 0)
      this.inputGradients = this.layer.slots.inputGradients.map((slot) =>
        slot === null ? null : this.#environment.consume(slot),
      );
  }

  /** Runs the phase of the parameters' gradients, if they have one of their own. */
  async backwardWeight(): Promise<void> {
    if (this.layer.plan.weightPhase !== null) await this.#environment.run(this.layer.plan.weightPhase);
  }

  /** Hands gradients and state contributions to the group's sums and lets everything go. */
  async finish(): Promise<void> {
    const { slots } = this.layer;
    const cells = [
      ...this.group.gradientOf.map((i) => this.#environment.consume(slots.paramGradients[i] as SlotId)),
      ...slots.contributions.map((slot) => this.#environment.consume(slot)),
    ];
    this.#environment.clear();
    if (cells.length > 0) await this.group.gradients.add(this.microbatch, cells);
  }

  /** Rows and counts that expert call `index` of the forward sends; the caller must release both. */
  takeCall(index: number): { readonly rows: Cell; readonly counts: Cell } {
    const call = this.layer.calls[index] as ExpertCall;
    return { rows: this.#environment.consume(call.rows), counts: this.#environment.consume(call.counts) };
  }

  /** Gives the results of expert call `index`, taking over the reference. */
  giveResult(index: number, result: Cell): void {
    this.#environment.set((this.layer.calls[index] as ExpertCall).result, result);
  }

  /** Cotangents of the results of expert call `index`. */
  takeCotangents(index: number): Cell {
    return this.#environment.consume(this.#backwardCall(index).rows);
  }

  /** Gives the cotangents of the rows of expert call `index`. */
  giveCotangents(index: number, cotangents: Cell): void {
    this.#environment.set(this.#backwardCall(index).result, cotangents);
  }

  clear(): void {
    this.#environment.clear();
    for (const cell of this.outputs ?? []) this.#space.release(cell);
    for (const cell of this.inputGradients ?? []) if (cell) this.#space.release(cell);
    this.outputs = null;
    this.inputGradients = null;
  }

  #backwardCall(index: number): ExpertCall {
    const call = this.layer.backwardCalls[index];
    if (!call)
      throw new Error(
        `layer ${this.layer.name}: no gradient reaches the experts of call ${index}; are their results used?`,
      );
    return call;
  }
}

function sharedTensors(layer: CompiledLayer, group: ParamGroup): Map<SlotId, () => DeviceTensor> {
  const shared = new Map<SlotId, () => DeviceTensor>();
  layer.slots.params.forEach((slot, i) => {
    shared.set(slot, () => (group.params[i] as ParamGroup['params'][number]).tensor);
  });
  layer.slots.state.forEach((slot, i) => {
    shared.set(slot, () => (group.state[i] as ParamGroup['state'][number]).tensor);
  });
  return shared;
}
