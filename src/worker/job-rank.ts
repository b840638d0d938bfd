import {
  batchesOf,
  type DataOrder,
  type Dataset,
  evaluationBatches,
  type SplitName,
  trainingOrder,
} from '../data/index.ts';
import type { Model } from '../modules/index.ts';
import type { HostTensor } from '../tensor/index.ts';
import { explainNonFinite } from './diagnose.ts';
import { failureReport } from './failure.ts';
import type { HeldTensor } from './held-tensors.ts';
import { interpret } from './interpreter.ts';
import { NonFinite } from './non-finite.ts';
import { Position } from './position.ts';
import { evaluationRound, ProgramRun, type RankParts, trainingBatches } from './program-run.ts';
import type { ChosenExamples, FailureReport, LeafValues, ShardReport, StepReport } from './protocol.ts';
import type { HeldState, Rank, RankOverrides, ReadyReport } from './rank.ts';
import { SnapshotRing } from './snapshot.ts';
import type { SnapshotShare, SnapshotTaken } from './snapshot-layout.ts';
import { SPAN, StepSpans } from './step-span.ts';
import { TraceRecorder } from './trace.ts';
import type { TrainingObjective, TransitionAnswers } from './training-objective.ts';
import { changeGroups } from './transitions.ts';
import { writeShard } from './weights.ts';

/** A rank of a job, ready to work: see `createRank`. */
export class JobRank implements Rank {
  readonly rank: number;
  readonly ready: ReadyReport;
  readonly #parts: RankParts;
  readonly #held: readonly HeldTensor[];
  readonly #slots: number | undefined;
  #ring: SnapshotRing | null = null;
  readonly #dataset: Dataset;
  readonly #model: Model;
  readonly #order: DataOrder;
  readonly #position: Position;
  readonly #trace: TraceRecorder | null;
  readonly #objective: TrainingObjective | null;
  readonly #ownsEngine: boolean;
  readonly #spans: StepSpans;
  #completed: number;
  /** Changed since by a transition. */
  #altered = false;

  constructor(
    parts: RankParts,
    held: readonly HeldTensor[],
    dataset: Dataset,
    model: Model,
    ready: ReadyReport,
    objective: TrainingObjective | null,
    { engine, snapshotSlots }: RankOverrides,
  ) {
    const { job } = parts;
    this.rank = job.rank;
    this.ready = ready;
    this.#completed = ready.step;
    this.#parts = parts;
    this.#held = held;
    this.#dataset = dataset;
    this.#model = model;
    this.#order = trainingOrder(dataset.split('train'), { seed: job.seed, ...job.batch });
    this.#position = new Position(job.progress);
    this.#position.flight?.watch(() => parts.transport.pending());
    this.#trace = job.trace ? new TraceRecorder(job.rank) : null;
    this.#objective = objective;
    this.#ownsEngine = engine === undefined;
    this.#slots = snapshotSlots;
    const train = dataset.split('train');
    this.#spans = new StepSpans(parts, (step) => train.batch(this.#order.indices(step, 0)));
  }

  async step(step: number): Promise<StepReport> {
    const start = performance.now();
    const before = this.#parts.transport.statistics();
    const rows = this.#objective?.rows?.(step) ?? null;
    const batches = trainingBatches(this.#dataset.split('train'), this.#order, step, rows);
    const run = await ProgramRun.prepare(this.#parts, this.#parts.job.train, step, batches);
    const commMs = await this.#interpret(run);
    const stepMs = performance.now() - start;
    const after = this.#parts.transport.statistics();
    this.#completed = step + 1;
    this.#altered = false;
    return {
      step,
      metrics: reported(run.metrics),
      gradNorm: run.gradNorm,
      lr: run.lr,
      stepMs,
      commMs,
      commBytes: after.bytesSent - before.bytesSent,
      commBytesSaved: (after.bytesSaved ?? 0) - (before.bytesSaved ?? 0),
    };
  }

  async steps(step: number, until: number): Promise<StepReport[]> {
    if (until - step >= SPAN && !this.#objective?.rows) {
      this.#position.span(step);
      const reports = await this.#spans.run(step);
      if (reports) {
        this.#completed = step + reports.length;
        this.#altered = false;
        return reports;
      }
    }
    const note = this.#spans.takeNote();
    const report = await this.step(step);
    return [note === null ? report : { ...report, note }];
  }

  async evaluate(
    split: SplitName,
    maxMicrobatches: number | null,
    chosen?: ChosenExamples,
  ): Promise<Readonly<Record<string, LeafValues>>> {
    const { job } = this.#parts;
    const { micro } = job.batch;
    const source = this.#dataset.split(split);
    const batches = chosen
      ? batchesOf(chosen.examples, chosen.micro)
      : evaluationBatches({ examples: source.examples, micro, max: maxMicrobatches });
    const metrics = new Map<string, [number, number | readonly number[]][]>();
    const perRound = job.evaluate.microbatches;
    for (let round = 0; round * perRound < batches.length; round++) {
      const offset = round * perRound;
      const run = await ProgramRun.prepare(this.#parts, job.evaluate, round, evaluationRound(source, batches, offset));
      if (chosen) run.wanted = new Set(chosen.metrics);
      await this.#interpret(run);
      for (const [name, values] of run.metrics) {
        const known = metrics.get(name) ?? [];
        metrics.set(name, known);
        for (const [microbatch, value] of values) known.push([offset + microbatch, value]);
      }
    }
    return reported(metrics);
  }

  async transition(name: string, args: unknown): Promise<TransitionAnswers> {
    const transition = this.#objective?.transitions?.[name];
    if (!transition) throw new Error(`the objective of this run has no transition "${name}"`);
    this.#altered = true;
    return changeGroups(this.#parts.space, this.#parts.model.groups, transition, args);
  }

  checkpoint(folder: string): Promise<ShardReport[]> {
    const { space, job } = this.#parts;
    return writeShard(space.engine, this.#held, job.train, folder);
  }

  snapshot(step: number): Promise<SnapshotTaken | null> {
    return this.#snapshotRing().take(step);
  }

  digests(taken: SnapshotTaken): Readonly<Record<string, string>> | null {
    return this.#parts.job.train.mesh.data > 1 ? this.#snapshotRing().digests(taken) : null;
  }

  snapshots(): SnapshotShare {
    return this.#snapshotRing().share;
  }

  #snapshotRing(): SnapshotRing {
    const { space, job } = this.#parts;
    this.#ring ??= new SnapshotRing(space.engine, this.#held, job.train, this.#slots);
    return this.#ring;
  }

  held(): HeldState {
    // (What top-k compression has left out changes with each exchange.)
    const certain = !this.#altered && this.#parts.job.compression?.gradients !== 'topk';
    if (this.#position.changing) return { step: null, tensors: new Map() };
    return {
      step: certain ? this.#completed : null,
      tensors: new Map(this.#held.map(({ name, tensor }) => [name, tensor()])),
    };
  }

  async parameters(): Promise<Record<string, HostTensor>> {
    const { space, model } = this.#parts;
    const held: Record<string, HostTensor> = {};
    for (const group of model.groups)
      for (const { path, tensor } of group.params) {
        const { dtype, shape, data } = await space.read(tensor);
        held[path] = { dtype, shape, data: data.slice() };
      }
    return held;
  }

  failure(error: unknown): FailureReport {
    return failureReport(this.rank, error, this.#position);
  }

  traceEvents(): readonly unknown[] {
    return this.#trace?.events() ?? [];
  }

  async dispose(): Promise<void> {
    this.#position.flight?.stop();
    this.#parts.space.clear();
    if (this.#ownsEngine) await this.#parts.space.engine.dispose();
  }

  async #interpret(run: ProgramRun): Promise<number> {
    try {
      const communication = await interpret(run, this.#position, this.#trace);
      run.clear();
      return communication;
    } catch (error) {
      // After a failure the rank is not used again; what the run holds is looked at, not released.
      if (error instanceof NonFinite) throw await explainNonFinite(error, run, this.#model, this.#dataset.info);
      throw error;
    }
  }
}

function reported(metrics: ReadonlyMap<string, LeafValues[number][]>): Record<string, LeafValues> {
  return Object.fromEntries([...metrics].map(([name, values]) => [name, values.sort((a, b) => a[0] - b[0])]));
}
