import type { Engine, SlotId } from '../engine/index.ts';
import { type ExpertFunction, evaluationKey, layerKey } from '../modules/index.ts';
import { Environment } from './environment.ts';
import type { ParamGroup } from './param-group.ts';
import { type PhasePlan, planPhases } from './phase-plan.ts';
import type { WorkerJob } from './protocol.ts';
import { rematFor } from './remat.ts';
import type { Cell, TensorSpace } from './tensor-space.ts';

/**
 * Rows of one microbatch for the experts of this rank, sorted by expert, and where the results go. `counts` has one
 * entry for each expert held here.
 */
export interface ExpertSource {
  readonly microbatch: number;
  readonly counts: Int32Array;
  readonly rows: Float32Array;
  readonly results: Float32Array;
}

/** What an expert call's runtime is made of. */
export interface ExpertRuntimeOptions {
  readonly engine: Engine;
  readonly space: TensorSpace;
  readonly fn: ExpertFunction;
  readonly width: number;
  /** The experts held here, in order. */
  readonly groups: readonly ParamGroup[];
  readonly training: boolean;
  readonly seed: number;
  readonly remat: WorkerJob['remat'];
  /** Put rows of several microbatches for one expert in one bucket (`numerics: fast`). */
  readonly merge: boolean;
  /** What `make` gives, made once for a size of bucket. */
  readonly once: (bucket: number, make: () => Promise<PhasePlan>) => Promise<PhasePlan>;
}

/**
 * Rows that a bucket holds for `count` rows: at least two (a single row takes another kernel with other bits), in steps
 * of an eighth to a quarter of the next smaller power of two, so that little is wasted and few sizes are compiled. A
 * function of the count alone: where an expert runs does not change its bits.
 */
export function bucketSize(count: number): number {
  if (count <= 2) return 2;
  const power = 2 ** Math.floor(Math.log2(count - 1));
  const step = Math.max(2, power >= 64 ? power / 8 : power / 4);
  return Math.ceil(count / step) * step;
}

/** Runs the experts of one expert call that this rank holds, forward and backward, on rows from any rank. */
export class ExpertRuntime {
  readonly groups: readonly ParamGroup[];
  readonly width: number;
  readonly #options: ExpertRuntimeOptions;
  /** Values kept for the backward, by expert and (first) microbatch. */
  readonly #kept = new Map<string, Environment>();

  constructor(options: ExpertRuntimeOptions) {
    this.#options = options;
    this.groups = options.groups;
    this.width = options.width;
  }

  /** Whether rows of several microbatches for one expert are one bucket, and so must be given together. */
  get merges(): boolean {
    return this.#options.merge;
  }

  /** Compiles the smallest bucket, and learns which parameters get gradients. */
  async prepare(): Promise<void> {
    const { phased } = await this.#plan(2);
    if (!this.#options.training) return;
    for (const group of this.groups)
      group.gradientOf = group.params.flatMap((_, i) => (phased.gradients[i] === null ? [] : [i]));
  }

  /** Runs the forward and writes the results; `step` is the number of the step, for random keys. */
  async forward(sources: readonly ExpertSource[], step: number): Promise<void> {
    await this.#each(sources, async (group, parts, count) => {
      const plan = await this.#plan(bucketSize(count));
      const { phased } = plan;
      const { space, seed, training } = this.#options;
      const environment = new Environment(space, plan, sharedParams(group, phased.inputs));
      const [keySlot, rowsSlot] = phased.inputs.slice(-2) as [SlotId, SlotId];
      const microbatch = parts[0]?.source.microbatch ?? 0;
      if ((plan.uses.get(keySlot) ?? 0) > 0) {
        const key = training ? layerKey(seed, step, microbatch, group.name) : evaluationKey();
        environment.set(keySlot, space.upload(key));
      }
      environment.set(rowsSlot, this.#gather(parts, bucketSize(count)));
      await environment.run(0);
      const output = environment.consume(phased.outputs[0] as SlotId);
      await this.#scatter(output, parts);
      if (training) this.#kept.set(`${group.name}/${microbatch}`, environment);
      else environment.clear();
    });
  }

  /**
   * Runs the backward on cotangents of the results; `results` receive the cotangents of the rows. Parameter gradients
   * are added up as leaves of their source microbatches.
   */
  async backward(sources: readonly ExpertSource[]): Promise<void> {
    await this.#each(
      sources,
      async (group, parts, count) => {
        const microbatch = parts[0]?.source.microbatch ?? 0;
        const key = `${group.name}/${microbatch}`;
        const environment = this.#kept.get(key);
        if (!environment)
          throw new Error(`expert ${group.name} has no forward of microbatch ${microbatch} to go back from`);
        this.#kept.delete(key);
        const { phased } = environment;
        const cotangent = phased.cotangents[0];
        if (cotangent !== null && cotangent !== undefined)
          environment.set(cotangent, this.#gather(parts, bucketSize(count)));
        for (let phase = 1; phase < phased.phases.length; phase++) await environment.run(phase);
        const rows = phased.gradients[phased.gradients.length - 1];
        if (rows === null || rows === undefined)
          for (const { source, start, end } of parts) source.results.fill(0, start, end);
        else await this.#scatter(environment.consume(rows), parts);
        await group.gradients.add(
          microbatch,
          group.gradientOf.map((i) => environment.consume(phased.gradients[i] as SlotId)),
        );
        environment.clear();
      },
      async (group, microbatch) => {
        await group.gradients.add(microbatch, null);
      },
    );
  }

  /** Drops what was kept of microbatches whose backward will not come. */
  clear(): void {
    for (const environment of this.#kept.values()) environment.clear();
    this.#kept.clear();
  }

  /** Calls `run` for each expert and microbatch (or, merged, each expert) with rows, `idle` for those without. */
  async #each(
    sources: readonly ExpertSource[],
    run: (group: ParamGroup, parts: readonly Part[], count: number) => Promise<void>,
    idle?: (group: ParamGroup, microbatch: number) => Promise<void>,
  ): Promise<void> {
    const offsets = sources.map(() => 0);
    for (const [e, group] of this.groups.entries()) {
      const parts = sources.map((source, s): Part => {
        const start = offsets[s] as number;
        const end = start + (source.counts[e] as number) * this.width;
        offsets[s] = end;
        return { source, start, end };
      });
      const batches = this.#options.merge
        ? [parts.filter((part) => part.end > part.start)]
        : parts.map((part) => [part]);
      for (const batch of batches) {
        const count = batch.reduce((sum, part) => sum + (part.end - part.start) / this.width, 0);
        if (count > 0) await run(group, batch, count);
        else if (idle && batch[0]) await idle(group, batch[0].source.microbatch);
      }
    }
  }

  /** Copies rows into a bucket, zeros behind them: a row of zeros adds nothing to any gradient. */
  #gather(parts: readonly Part[], bucket: number): Cell {
    return this.#options.space.make([bucket, this.width], (data) => {
      let at = 0;
      for (const { source, start, end } of parts) {
        data.set(source.rows.subarray(start, end), at);
        at += end - start;
      }
      data.fill(0, at);
    });
  }

  async #scatter(cell: Cell, parts: readonly Part[]): Promise<void> {
    const { data } = await this.#options.space.read(cell.tensor);
    let at = 0;
    for (const { source, start, end } of parts) {
      source.results.set((data as Float32Array).subarray(at, at + end - start), start);
      at += end - start;
    }
    this.#options.space.release(cell);
  }

  #plan(bucket: number): Promise<PhasePlan> {
    return this.#options.once(bucket, () => this.#compile(bucket));
  }

  async #compile(bucket: number): Promise<PhasePlan> {
    const { engine, fn, training, width } = this.#options;
    const params = fn.params[0] ?? [];
    const phased = await engine.vjp(
      fn.fn,
      [
        ...params.map(({ spec }) => ({ dtype: 'float32' as const, shape: spec.shape })),
        { dtype: 'int32', shape: [2] },
        { dtype: 'float32', shape: [bucket, width] },
      ],
      {
        name: `${fn.path}.experts`,
        wrt: [...params.map(() => training), false, training],
        differentiable: [training],
        remat: rematFor(this.#options.remat, `${fn.path}.experts.*`),
      },
    );
    return planPhases(phased, 0, { outputs: [0] });
  }
}

interface Part {
  readonly source: ExpertSource;
  /** Elements of `source.rows` and `source.results`. */
  readonly start: number;
  readonly end: number;
}

/** Finds an expert's parameters by slot: the first inputs of its function. */
function sharedParams(group: ParamGroup, inputs: readonly SlotId[]) {
  return (slot: SlotId) => {
    const index = inputs.indexOf(slot);
    return index >= 0 && index < group.params.length ? group.params[index]?.tensor : undefined;
  };
}
