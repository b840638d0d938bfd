import type { Batch } from '../data/index.ts';
import type { DeviceTensor, Executable } from '../engine/index.ts';
import { layerKey } from '../modules/index.ts';
import { stepScalars } from '../optim/index.ts';
import { type HostTensor, scalar, sizeOf } from '../tensor/index.ts';
import { globalNorm } from './handlers/norms.ts';
import type { MetricValue, RankParts } from './program-run.ts';
import type { LeafValues, StepReport } from './protocol.ts';
import { type Held, type StepGraph, type StepSource, stepsAreRuns, writeSteps } from './step-graph.ts';

/** Steps that are run as one. */
export const SPAN = 8;
/**
 * Floating-point operations of a step above which it is not worth while: what is saved besides arithmetic, calls and the memory between
 * steps, is then a small part (a quarter at 3e8, 6 % at 3e9), and a span would keep a rank from listening for long.
 */
const SMALL_FLOPS = 5e8;

interface Span {
  readonly graph: StepGraph;
  readonly executable: Executable;
}

/**
 * Runs several steps of a rank as one, where nothing but their batches comes from outside: with a small model most of a step's time
 * is the interpreter's and what calls of the engine cost. Losses, norms and weights are those of step by step, to the bit: the same
 * executables with the same wiring, joined.
 */
export class StepSpans {
  readonly #parts: RankParts;
  readonly #batchOf: (step: number) => Batch;
  #span: Promise<Span | null> | null = null;
  #broken = false;
  #note: string | null = null;

  /** @param batchOf the examples of a step */
  constructor(parts: RankParts, batchOf: (step: number) => Batch) {
    this.#parts = parts;
    this.#batchOf = batchOf;
  }

  /**
   * Runs `SPAN` steps. Null, and nothing has changed, where that cannot be done, or where one of them goes wrong: step by step it
   * is then found out what and where.
   */
  async run(first: number): Promise<StepReport[] | null> {
    if (this.#broken) return null;
    const { space } = this.#parts;
    const given: DeviceTensor[] = [];
    try {
      this.#span ??= this.#make();
      const span = await this.#span;
      if (!span) return null;
      const began = performance.now();
      const inputs = this.#inputs(span.graph.sources, first, given);
      const outputs = await space.runNow(span.executable, inputs);
      const [told, ...changed] = outputs as [DeviceTensor, ...DeviceTensor[]];
      const reports = this.#reports(span.graph, (await space.read(told)).data as Float32Array, first);
      space.give(told);
      // Where something went wrong, all is as it was before.
      changed.forEach((tensor, i) => {
        const held = span.graph.changed[i] as Held;
        space.give(reports ? held.get() : tensor);
        if (reports) held.set(tensor);
      });
      if (!reports) return null;
      const stepMs = (performance.now() - began) / SPAN;
      return reports.map((report) => ({ ...report, stepMs }));
    } catch (error) {
      // Whatever it was, nothing has changed; a cause that is not of spans ends the first of these steps by itself.
      this.#broken = true;
      this.#note =
        `steps ${first} to ${first + SPAN - 1} could not be run as one (${error instanceof Error ? error.message : String(error)}): ` +
        'from here on each is run by itself, with the same results but more slowly';
      return null;
    } finally {
      // They come from outside in every step: the pool would not want them.
      for (const tensor of given) space.engine.release(tensor);
    }
  }

  /** Why steps are no longer run as one, the first time it is asked after that came about; else null. */
  takeNote(): string | null {
    const note = this.#note;
    this.#note = null;
    return note;
  }

  async #make(): Promise<Span | null> {
    const { space, job } = this.#parts;
    if (job.trace || !space.engine.sequence || !stepsAreRuns(this.#parts)) return null;
    const phases = [...this.#parts.model.layers.values()].flatMap(({ train }) => train.compiled.plan.phased.phases);
    if (phases.reduce((sum, { executable }) => sum + executable.flops, 0) > SMALL_FLOPS) return null;
    const graph = await writeSteps(this.#parts, SPAN);
    const executable = space.engine.sequence(graph.sequence);
    return executable && { graph, executable };
  }

  /** What the steps are given; `given` gets what is to be released when they are over. */
  #inputs(sources: readonly StepSource[], first: number, given: DeviceTensor[]): DeviceTensor[] {
    const { space, job, optimizer, objectiveSeed } = this.#parts;
    const steps = Array.from({ length: SPAN }, (_, i) => first + i);
    const batches = steps.map((step) => this.#batchOf(step));
    const scalars = steps.map((step) => stepScalars(optimizer, step, []));
    const upload = (values: HostTensor): DeviceTensor => {
      const tensor = space.engine.upload(values);
      given.push(tensor);
      return tensor;
    };
    return sources.map((source) => {
      switch (source.of) {
        case 'held':
          return source.held.get();
        case 'scalars':
          return upload(scalar(scalars[source.step]?.[source.index] as number));
        case 'key':
          return upload(layerKey(job.seed, first + source.step, 0, source.layer));
        case 'objective seed':
          return objectiveSeed.tensor;
        case 'zeros': {
          const zeros = space.zeros(source.signature);
          space.release(zeros);
          return zeros.tensor;
        }
        default:
          return upload(batches[source.step]?.[source.of][source.index] as HostTensor);
      }
    });
  }

  /** What there is to tell of each step; null if a loss or a norm is not finite. */
  #reports({ metrics, norms }: StepGraph, told: Float32Array, first: number): StepReport[] | null {
    const { optimizer, model } = this.#parts;
    const reports: StepReport[] = [];
    let at = 0;
    for (let step = first; step < first + SPAN; step++) {
      const found: Record<string, LeafValues[number][]> = {};
      for (const { name, shape } of metrics) {
        const size = sizeOf(shape);
        const value: MetricValue = shape.length === 0 ? (told[at] as number) : Array.from(told.subarray(at, at + size));
        at += size;
        if (name === 'loss' && !Number.isFinite(value)) return null;
        const known = found[name] ?? [];
        found[name] = known;
        known.push([0, value]);
      }
      const squared = new Map(
        model.groups.flatMap(({ params }) => params.map(({ path }) => [path, 0] as [string, number])),
      );
      for (const path of norms) squared.set(path, told[at++] as number);
      const gradNorm = globalNorm(squared);
      if (!Number.isFinite(gradNorm)) return null;
      const lr = optimizer.lrAt(step);
      reports.push({ step, metrics: found, gradNorm, lr, stepMs: 0, commMs: 0, commBytes: 0, commBytesSaved: 0 });
    }
    return reports;
  }
}
