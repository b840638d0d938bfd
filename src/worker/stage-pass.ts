import type { Stage } from '../plan/index.ts';
import type { ExpertExchange } from './exchange.ts';
import type { LayerPass } from './layer-pass.ts';
import type { Cell, TensorSpace } from './tensor-space.ts';

/** One microbatch on its way through one stage of this rank, forward and back. */
export class StagePass {
  readonly stage: Stage;
  readonly microbatch: number;
  /** What goes into the first layer: from the batch, or from the stage before. */
  inputs: readonly Cell[] | null = null;
  targets: readonly Cell[] = [];
  /** Cotangents of the last layer's outputs, from the stage after; null entries stand for zeros. */
  cotangents: readonly (Cell | null)[] | null = null;
  readonly layers = new Map<number, LayerPass>();
  /** Expert calls under way, by layer and number of the call. */
  readonly exchanges = new Map<string, ExpertExchange>();
  /** What went into each layer (and came back from its experts), kept until the forward has been found finite. */
  readonly #kept = new Map<number, { readonly inputs: readonly Cell[]; readonly results: Cell[] }>();
  readonly #space: TensorSpace;

  constructor(stage: Stage, microbatch: number, space: TensorSpace) {
    this.stage = stage;
    this.microbatch = microbatch;
    this.#space = space;
  }

  /** The pass through a layer of this stage. */
  layer(index: number): LayerPass {
    const pass = this.layers.get(index);
    if (!pass)
      throw new Error(
        `microbatch ${this.microbatch} has not been forwarded through layer ${index} of stage ${this.stage.index}`,
      );
    return pass;
  }

  /** Keeps a layer's inputs for a diagnosis, besides whoever else holds them. */
  keepInputs(layer: number, inputs: readonly Cell[]): void {
    this.#kept.set(layer, { inputs: inputs.map((cell) => this.#space.retain(cell)), results: [] });
  }

  /** Keeps the results of a layer's expert call for a diagnosis. */
  keepResult(layer: number, result: Cell): void {
    this.#kept.get(layer)?.results.push(this.#space.retain(result));
  }

  /** What is kept of a layer, or null. */
  kept(layer: number): { readonly inputs: readonly Cell[]; readonly results: readonly Cell[] } | null {
    return this.#kept.get(layer) ?? null;
  }

  /** The forward was finite: no diagnosis is needed. */
  releaseKept(): void {
    for (const { inputs, results } of this.#kept.values())
      for (const cell of [...inputs, ...results]) this.#space.release(cell);
    this.#kept.clear();
  }

  /** Whether the forward is done and nobody has taken its outputs. */
  get hasOutputs(): boolean {
    return (this.layers.get(this.stage.layers[this.stage.layers.length - 1] as number)?.outputs ?? null) !== null;
  }

  /** Outputs of the last layer; the caller takes the references. */
  takeOutputs(): readonly Cell[] {
    const last = this.layer(this.stage.layers[this.stage.layers.length - 1] as number);
    const { outputs } = last;
    if (!outputs) throw new Error(`stage ${this.stage.index} has no outputs of microbatch ${this.microbatch} to give`);
    last.outputs = null;
    return outputs;
  }

  /** Gradients of the stage's inputs; the caller takes the references. */
  takeInputGradients(): readonly (Cell | null)[] {
    const first = this.layer(this.stage.layers[0] as number);
    const { inputGradients } = first;
    if (!inputGradients)
      throw new Error(`stage ${this.stage.index} has no input gradients of microbatch ${this.microbatch} to give`);
    first.inputGradients = null;
    return inputGradients;
  }

  /** Lets everything go. */
  clear(): void {
    this.releaseKept();
    for (const pass of this.layers.values()) pass.clear();
    for (const exchange of this.exchanges.values()) exchange.clear();
    for (const cell of this.inputs ?? []) this.#space.release(cell);
    for (const cell of this.targets) this.#space.release(cell);
    for (const cell of this.cotangents ?? []) if (cell) this.#space.release(cell);
    this.layers.clear();
    this.exchanges.clear();
    this.inputs = null;
    this.targets = [];
    this.cotangents = null;
  }
}
