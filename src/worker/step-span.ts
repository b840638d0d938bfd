import type { Batch } from '../data/index.ts';
import type { DeviceTensor, Executable } from '../engine/index.ts';
import { layerKey } from '../modules/index.ts';
import { type HostTensor, scalar } from '../tensor/index.ts';
import { globalNorm } from './handlers/norms.ts';
import type { MetricValue, RankParts } from './program-run.ts';
import type { LeafValues, StepReport } from './protocol.ts';
import { type StepGraph, type StepSource, stepsAreRuns, writeSteps } from './step-graph.ts';

/** Steps that are run as one. */
export const SPAN = 8;
/** Floating-point operations of a step above which it is not worth while: what calls cost is then a small part. */
const SMALL_FLOPS = 5e7;

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
    this.#span ??= this.#make();
    const span = await this.#span;
    if (!span) return null;
    const began = performance.now();
    const { space } = this.#parts;
    const given: DeviceTensor[] = [];
    try {
      const inputs = this.#inputs(span.graph.sources, first, given);
      const outputs = await space.runNow(span.executable, inputs);
      const reports = await this.#reports(span.graph, outputs, first);
      if (!reports) {
        for (const tensor of outputs) space.give(tensor);
        return null;
      }
      const results = outputs.length - span.graph.changed.length;
      for (const tensor of outputs.slice(0, results)) space.give(tensor);
      span.graph.changed.forEach((held, i) => {
        const old = held.get();
        held.set(outputs[results + i] as DeviceTensor);
        space.give(old);
      });
      const stepMs = (performance.now() - began) / SPAN;
      return reports.map((report) => ({ ...report, stepMs }));
    } catch {
      this.#broken = true;
      return null;
    } finally {
      // They come from outside in every step: the pool would not want them.
      for (const tensor of given) space.engine.release(tensor);
    }
  }

  async #make(): Promise<Span | null> {
    const { space, job } = this.#parts;
    if (job.trace || !space.engine.sequence || !stepsAreRuns(this.#parts)) return null;
    const one = await writeSteps(this.#parts, 1);
    const flops = one.sequence.calls.reduce((sum, { executable }) => sum + executable.flops, 0);
    if (flops > SMALL_FLOPS) return null;
    const graph = await writeSteps(this.#parts, SPAN);
    const executable = space.engine.sequence(graph.sequence);
    return executable && { graph, executable };
  }

  /** What the steps are given; `given` gets what is to be released when they are over. */
  #inputs(sources: readonly StepSource[], first: number, given: DeviceTensor[]): DeviceTensor[] {
    const { space, job, optimizer, objectiveSeed } = this.#parts;
    const steps = Array.from({ length: SPAN }, (_, i) => first + i);
    const batches = steps.map((step) => this.#batchOf(step));
    const scalars = steps.map((step) => optimizer.optimizer.scalars(optimizer.lrAt(step), step + 1));
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
  async #reports(graph: StepGraph, outputs: readonly DeviceTensor[], first: number): Promise<StepReport[] | null> {
    const { space, optimizer, model } = this.#parts;
    const each = graph.metrics.length + graph.norms.length;
    const reports: StepReport[] = [];
    for (let at = 0; at < SPAN; at++) {
      const own = outputs.slice(at * each, (at + 1) * each);
      const metrics: Record<string, LeafValues[number][]> = {};
      for (const [i, name] of graph.metrics.entries()) {
        const { data, shape } = await space.read(own[i] as DeviceTensor);
        const value: MetricValue = shape.length === 0 ? Number(data[0]) : Array.from(data as Float32Array);
        if (name === 'loss' && !Number.isFinite(value)) return null;
        const known = metrics[name] ?? [];
        metrics[name] = known;
        known.push([0, value]);
      }
      const squared = new Map(
        model.groups.flatMap(({ params }) => params.map(({ path }) => [path, 0] as [string, number])),
      );
      for (const [i, paths] of graph.norms.entries()) {
        const { data } = await space.read(own[graph.metrics.length + i] as DeviceTensor);
        paths.forEach((path, element) => {
          squared.set(path, Number(data[element]));
        });
      }
      const gradNorm = globalNorm(squared);
      if (!Number.isFinite(gradNorm)) return null;
      const step = first + at;
      reports.push({
        step,
        metrics,
        gradNorm,
        lr: optimizer.lrAt(step),
        stepMs: 0,
        commMs: 0,
        commBytes: 0,
        commBytesSaved: 0,
      });
    }
    return reports;
  }
}
