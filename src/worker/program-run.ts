import type { Transport } from '../comm/index.ts';
import type { Batch, DataOrder, Split } from '../data/index.ts';
import type { OptimizerPlan } from '../optim/index.ts';
import type { Instruction, Program, Stage } from '../plan/index.ts';
import type { PassContext } from './layer-pass.ts';
import { NonFinite } from './non-finite.ts';
import type { WorkerJob } from './protocol.ts';
import type { RankLayer, RankLayerMode, RankModel } from './rank-model.ts';
import { Reductions } from './reductions.ts';
import { StagePass } from './stage-pass.ts';
import type { Cell, TensorSpace } from './tensor-space.ts';

/** What lasts from step to step on one rank. */
export interface RankParts {
  readonly job: WorkerJob;
  readonly transport: Transport;
  readonly space: TensorSpace;
  readonly model: RankModel;
  readonly optimizer: OptimizerPlan;
  /** Layers of the whole model. */
  readonly layerCount: number;
  readonly objectiveSeed: Cell;
  /** Parameter paths that members of a group hold, by group and rank; learnt at the first exchange. */
  readonly peerPaths: Map<string, readonly (readonly string[])[]>;
}

/** Where the batches of one execution of a program come from. */
export interface BatchSource {
  readonly split: Split;
  /** Examples of a microbatch, where they are not `batch.micro`. */
  readonly micro?: number;
  /** Example indices of a global microbatch. */
  indices(microbatch: number): Int32Array;
  /** Whether its metrics are reported: a repeated microbatch that only fills a round is not. */
  reported(microbatch: number): boolean;
}

/** The training batches of a step; `rows` is how many examples of each microbatch are computed, its first ones (null: all). */
export function trainingBatches(split: Split, order: DataOrder, step: number, rows: number | null = null): BatchSource {
  const all = (microbatch: number) => order.indices(step, microbatch);
  const reported = () => true;
  if (rows === null) return { split, indices: all, reported };
  return { split, micro: rows, indices: (microbatch) => all(microbatch).subarray(0, rows), reported };
}

/** The batches of an evaluation round: `batches` from `offset` on, in a circle. */
export function evaluationRound(split: Split, batches: readonly Int32Array[], offset: number): BatchSource {
  return {
    split,
    micro: (batches[0] as Int32Array).length,
    indices: (microbatch) => batches[(offset + microbatch) % batches.length] as Int32Array,
    reported: (microbatch) => offset + microbatch < batches.length,
  };
}

/** One metric value of a global microbatch. */
export type MetricValue = number | readonly number[];

/** What is summed over each parameter, by its path. */
export interface ParamTotals {
  /** Sum of squares of the gradient. */
  readonly squared: ReadonlyMap<string, number>;
  /** What the optimizer wants summed; null where the step wants nothing. */
  readonly sums: ReadonlyMap<string, readonly number[]> | null;
}

/** The state of one execution of a program: a training step, or one round of an evaluation. */
export class ProgramRun {
  readonly parts: RankParts;
  readonly program: Program;
  readonly step: number;
  readonly batches: BatchSource;
  /** Values by metric name and microbatch. */
  readonly metrics = new Map<string, [microbatch: number, value: MetricValue][]>();
  /** Names of the metrics that are read; null for all. */
  wanted: ReadonlySet<string> | null = null;
  /** What is summed over parameters, of the whole model once it has been gathered; null before that. */
  totals: ParamTotals | null = null;
  gradNorm = 0;
  lr = 0;
  /** Exchanges of gradients and of updated parameters. */
  readonly reductions: Reductions;
  /** Milliseconds spent waiting inside of instructions that compute. */
  waitedMs = 0;
  /**
   * Whether metrics are looked at when the parameters are about to be updated, in place of as soon as they are there: where a rank
   * has the whole model and a single microbatch, a step's small runs then become one (`Executable.defer`).
   */
  readonly readsLate: boolean;
  /** Metrics that have not been looked at. */
  readonly #unread: { readonly name: string; readonly microbatch: number; readonly cell: Cell }[] = [];
  /** Passes that are over but for those. */
  readonly #over: { readonly stage: number; readonly microbatch: number }[] = [];
  readonly #passes = new Map<string, StagePass>();
  readonly #stages: ReadonlyMap<number, Stage>;
  readonly #batches = new Map<number, Batch>();
  readonly #modes: ReadonlyMap<number, RankLayerMode>;

  private constructor(
    parts: RankParts,
    program: Program,
    step: number,
    batches: BatchSource,
    modes: ReadonlyMap<number, RankLayerMode>,
  ) {
    this.parts = parts;
    this.program = program;
    this.step = step;
    this.batches = batches;
    this.#modes = modes;
    this.readsLate =
      program.mode === 'train' && program.microbatches === 1 && program.stages.length === program.totalStages;
    this.#stages = new Map(program.stages.map((stage) => [stage.index, stage]));
    this.reductions = new Reductions(this);
  }

  /** Prepares a run; layers are compiled for evaluation, or for microbatches of another size, when the first one comes. */
  static async prepare(parts: RankParts, program: Program, step: number, batches: BatchSource): Promise<ProgramRun> {
    const modes = new Map<number, RankLayerMode>();
    for (const [index, layer] of parts.model.layers)
      modes.set(
        index,
        await (program.mode === 'train' ? layer.training(batches.micro) : layer.evaluate(batches.micro)),
      );
    return new ProgramRun(parts, program, step, batches, modes);
  }

  get training(): boolean {
    return this.program.mode === 'train';
  }

  stage(index: number): Stage {
    const stage = this.#stages.get(index);
    if (!stage) throw new RangeError(`rank ${this.program.rank} does not hold stage ${index}`);
    return stage;
  }

  layer(index: number): RankLayer {
    const layer = this.parts.model.layers.get(index);
    if (!layer) throw new RangeError(`rank ${this.program.rank} does not hold layer ${index}`);
    return layer;
  }

  mode(layer: number): RankLayerMode {
    return this.#modes.get(layer) as RankLayerMode;
  }

  /** The pass of a microbatch through a stage; begun when first asked for. */
  pass(stage: number, microbatch: number): StagePass {
    const key = `${stage}/${microbatch}`;
    let pass = this.#passes.get(key);
    if (!pass) {
      pass = new StagePass(this.stage(stage), microbatch, this.parts.space);
      this.#passes.set(key, pass);
    }
    return pass;
  }

  /** Lets a pass go. Outputs that the next stage, if it is on this very rank, has not taken yet are handed to it. */
  endPass(stage: number, microbatch: number): void {
    const key = `${stage}/${microbatch}`;
    const pass = this.#passes.get(key);
    if (!pass) return;
    // An error that the metrics show is explained by what the pass has kept.
    if (this.#unread.length > 0) {
      this.#over.push({ stage, microbatch });
      return;
    }
    if (this.#stages.has(stage + 1) && pass.hasOutputs) this.pass(stage + 1, microbatch).inputs = pass.takeOutputs();
    pass.clear();
    this.#passes.delete(key);
  }

  context(microbatch: number): PassContext {
    const { space, job, objectiveSeed } = this.parts;
    return { space, seed: job.seed, step: this.step, microbatch, objectiveSeed };
  }

  /** A microbatch's examples. A rank that wants inputs and targets gathers them once. */
  batch(microbatch: number, what: 'inputs' | 'targets'): Batch {
    const known = this.#batches.get(microbatch);
    if (known) {
      this.#batches.delete(microbatch);
      return known;
    }
    const batch = this.batches.split.batch(this.batches.indices(microbatch));
    const alsoTargets = what === 'inputs' && this.#stages.has(0) && this.#stages.has(this.program.totalStages - 1);
    if (alsoTargets) this.#batches.set(microbatch, batch);
    return batch;
  }

  recordMetric(name: string, microbatch: number, value: MetricValue): void {
    if (!this.batches.reported(microbatch)) return;
    const known = this.metrics.get(name);
    if (known) known.push([microbatch, value]);
    else this.metrics.set(name, [[microbatch, value]]);
  }

  /** Takes a metric over, to be looked at when the parameters are updated. */
  leaveMetric(name: string, microbatch: number, cell: Cell): void {
    this.#unread.push({ name, microbatch, cell });
  }

  /** Looks at the metrics that were left. @throws NonFinite if the loss is not finite */
  async readMetrics(): Promise<void> {
    const unread = this.#unread.splice(0);
    for (const { name, microbatch, cell } of unread) await this.readMetric(name, microbatch, cell);
    for (const { stage, microbatch } of this.#over.splice(0)) this.endPass(stage, microbatch);
  }

  /** Looks at a metric and records it. @throws NonFinite if it is the loss of a training step, and not finite */
  async readMetric(name: string, microbatch: number, cell: Cell): Promise<void> {
    const { space } = this.parts;
    const { data, shape } = await space.read(cell.tensor);
    const value: MetricValue = shape.length === 0 ? Number(data[0]) : Array.from(data as Float32Array);
    space.release(cell);
    this.recordMetric(name, microbatch, value);
    if (name === 'loss' && this.training && !Number.isFinite(value))
      throw new NonFinite({ kind: 'loss', value: Number(value), microbatch, step: this.step });
  }

  /** Waits for tensors of other ranks, and notes how long. */
  async waitFor<T>(tensors: Promise<T>): Promise<T> {
    const start = performance.now();
    const arrived = await tensors;
    this.waitedMs += performance.now() - start;
    return arrived;
  }

  /** Lets everything go: at the end, or after a failure. */
  clear(): void {
    for (const { cell } of this.#unread.splice(0)) this.parts.space.release(cell);
    for (const pass of this.#passes.values()) pass.clear();
    this.#passes.clear();
    this.#batches.clear();
    for (const mode of this.#modes.values()) for (const runtime of mode.experts) runtime.clear();
  }
}

/** The instructions of one kind. */
export type InstructionOf<Op extends Instruction['op']> = Extract<Instruction, { op: Op }>;

/** Executes one kind of instruction. */
export type Handler<Op extends Instruction['op']> = (
  run: ProgramRun,
  instruction: InstructionOf<Op>,
) => Promise<void> | void;
